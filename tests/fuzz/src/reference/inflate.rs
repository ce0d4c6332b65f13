//! A second reading of RFC 1951 and RFC 7692 7.2.2: DEFLATE bit by bit, on the whole message at once.

const LENGTH_BASES: [usize; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS: [u32; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASES: [usize; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
const CODE_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A message that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is longer than the limit.
    TooBig,
    /// It is not DEFLATE, or ends within a block.
    Corrupt,
}

/// The message in a compressed payload without context.
pub fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut bits = Bits { bytes: payload, position: 0 };
    let mut out = Vec::new();
    loop {
        // The payload ends before the length of an empty block without compression, or after a last block.
        let is_last = match bits.take(1) {
            Ok(bit) => bit == 1,
            Err(fault) => return Err(fault),
        };
        match bits.take(2)? {
            0 => {
                bits.position = bits.position.next_multiple_of(8);
                if bits.position == payload.len() * 8 && !is_last {
                    return Ok(out);
                }
                stored(&mut bits, &mut out, limit)?;
            }
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|symbol| {
                        [8, 9, 7, 8]
                            [usize::from(symbol >= 144) + usize::from(symbol >= 256) + usize::from(symbol >= 280)]
                    })
                    .collect();
                block(&mut bits, &mut out, limit, &Code::new(&lengths), &Code::new(&[5; 30]))?;
            }
            2 => {
                let (literals, distances) = codes(&mut bits)?;
                block(&mut bits, &mut out, limit, &literals, &distances)?;
            }
            _ => return Err(Fault::Corrupt),
        }
        if is_last {
            bits.position = bits.position.next_multiple_of(8);
            if bits.position == payload.len() * 8 {
                return Ok(out);
            }
        }
    }
}

fn stored(bits: &mut Bits, out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let (length, complement) = (bits.take(16)?, bits.take(16)?);
    if length ^ complement != 0xFFFF {
        return Err(Fault::Corrupt);
    }
    for _ in 0..length {
        let byte = bits.take(8)?;
        push(out, byte as u8, limit)?;
    }
    Ok(())
}

fn codes(bits: &mut Bits) -> Result<(Code, Code), Fault> {
    let (literals, distances) = (bits.take(5)? as usize + 257, bits.take(5)? as usize + 1);
    let count = bits.take(4)? as usize + 4;
    // zlib refuses more than the alphabet has.
    if literals > 286 || distances > 30 {
        return Err(Fault::Corrupt);
    }
    let mut lengths = [0; 19];
    for &index in &CODE_ORDER[..count] {
        lengths[index] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    if !code.is_complete() {
        return Err(Fault::Corrupt);
    }
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (value, times) = match code.symbol(bits)? {
            16 => (*lengths.last().ok_or(Fault::Corrupt)?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.extend(std::iter::repeat_n(value, times as usize));
    }
    if lengths.len() > literals + distances || lengths[256] == 0 {
        return Err(Fault::Corrupt);
    }
    let (literals, distances) = (Code::new(&lengths[..literals]), Code::new(&lengths[literals..]));
    // One code of one bit may stand alone (RFC 1951 3.2.7), and distances may be missing.
    let is_fine = |code: &Code| code.is_complete() || code.is_single();
    if !is_fine(&literals) || !(is_fine(&distances) || distances.is_empty()) {
        return Err(Fault::Corrupt);
    }
    Ok((literals, distances))
}

fn block(bits: &mut Bits, out: &mut Vec<u8>, limit: usize, literals: &Code, distances: &Code) -> Result<(), Fault> {
    loop {
        match literals.symbol(bits)? {
            256 => return Ok(()),
            literal @ ..256 => push(out, literal as u8, limit)?,
            symbol => {
                let index = symbol - 257;
                let base = LENGTH_BASES.get(index).ok_or(Fault::Corrupt)?;
                let length = base + bits.take(LENGTH_BITS[index])? as usize;
                let index = distances.symbol(bits)?;
                let base = DISTANCE_BASES.get(index).ok_or(Fault::Corrupt)?;
                let distance = base + bits.take((index as u32 / 2).saturating_sub(1))? as usize;
                for _ in 0..length {
                    let from = out.len().checked_sub(distance).ok_or(Fault::Corrupt)?;
                    push(out, out[from], limit)?;
                }
            }
        }
    }
}

fn push(out: &mut Vec<u8>, byte: u8, limit: usize) -> Result<(), Fault> {
    if out.len() == limit {
        return Err(Fault::TooBig);
    }
    out.push(byte);
    Ok(())
}

struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Bits<'_> {
    /// A number of this many bits, least significant first. The payload goes on with the removed tail, which may end
    /// no block but the empty one.
    fn take(&mut self, count: u32) -> Result<u32, Fault> {
        let mut value = 0;
        for index in 0..count {
            let byte = self.bytes.get(self.position / 8).ok_or(Fault::Corrupt)?;
            value |= u32::from((byte >> (self.position % 8)) & 1) << index;
            self.position += 1;
        }
        Ok(value)
    }
}

/// A Huffman code by the lengths of its symbols (RFC 1951 3.2.2).
struct Code {
    /// The symbols by length and code.
    symbols: std::collections::HashMap<(u32, u32), usize>,
    used: u64,
}

impl Code {
    fn new(lengths: &[u8]) -> Code {
        let mut symbols = std::collections::HashMap::new();
        let (mut code, mut used) = (0_u32, 0);
        for length in 1..=15_u32 {
            code <<= 1;
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, one)| u32::from(**one) == length) {
                symbols.insert((length, code), symbol);
                code = code.wrapping_add(1);
                used += 1 << (15 - length);
            }
        }
        Code { symbols, used }
    }

    /// Whether each sequence of bits is a symbol.
    fn is_complete(&self) -> bool {
        self.used == 1 << 15
    }

    fn is_single(&self) -> bool {
        self.symbols.len() == 1 && self.symbols.contains_key(&(1, 0))
    }

    fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    fn symbol(&self, bits: &mut Bits) -> Result<usize, Fault> {
        let mut code = 0;
        for length in 1..=15 {
            code = (code << 1) | bits.take(1)?;
            if let Some(&symbol) = self.symbols.get(&(length, code)) {
                return Ok(symbol);
            }
        }
        Err(Fault::Corrupt)
    }
}
