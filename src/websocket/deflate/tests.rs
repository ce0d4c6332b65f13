//! Messages there and back, in pieces of all sizes, and input that is wrong. The examples of RFC 7692 7.2.3 are among
//! the cases.

use super::*;

/// Inflates `input` in pieces of `size` bytes.
fn inflated(input: &[u8], size: usize, limit: usize, context: Option<&SlidingWindow>) -> Result<Vec<u8>, InflateError> {
    let mut inflating = Inflating::new(context);
    let mut message = Vec::new();
    for piece in input.chunks(size) {
        inflating.inflate(piece, &mut message, limit, context)?;
        assert!(message.capacity() <= limit.max(FIRST_BYTES));
    }
    inflating.finish().map(|()| message)
}

/// The result, which must not depend on the pieces.
fn inflate(input: &[u8], limit: usize, context: Option<&SlidingWindow>) -> Result<Vec<u8>, InflateError> {
    let [bytes, pieces, whole] = [1, 7, 1 << 20].map(|size| inflated(input, size, limit, context));
    assert_eq!((&bytes, &pieces), (&whole, &whole));
    whole
}

/// A text of `length` bytes that is neither one letter nor random.
fn text(length: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        (seed >> 16) as usize
    };
    let words: [&[u8]; 5] = [b"hello ", b"{\"text\": ", b"room ", b"1234", b"x"];
    let mut out = Vec::new();
    while out.len() < length {
        out.extend_from_slice(words[next() % words.len()]);
        out.push(b'a' + (next() % 26) as u8);
    }
    out.truncate(length);
    out
}

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn the_examples_of_the_rfc_are_hello() {
    let table: [&[u8]; 4] = [
        // One block, a block without compression, a last block, and two blocks (RFC 7692 7.2.3.1, 7.2.3.3 to 7.2.3.5).
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for input in table {
        assert_eq!(inflate(input, 100, None).as_deref(), Ok(&b"Hello"[..]), "{input:02x?}");
    }
    // The second of two messages refers to the first (RFC 7692 7.2.3.2).
    let mut context = SlidingWindow::default();
    context.add(b"Hello", 15);
    assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 100, Some(&context)).as_deref(), Ok(&b"Hello"[..]));
    assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 100, None), Err(InflateError::Corrupt));
    // An empty message (RFC 7692 7.2.3.6).
    assert_eq!(inflate(&[0x00], 100, None), Ok(Vec::new()));
    // A last block may also be the end.
    assert_eq!(inflate(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 100, None).as_deref(), Ok(&b"Hello"[..]));
}

#[test]
fn messages_of_all_sizes_come_back_with_every_window() {
    for bits in 9..=15 {
        for length in [1, 2, 255, 512, 513, 4096, 70_000, 200_000] {
            let message = text(length);
            let compressed = compress(&message, bits, None);
            assert_eq!(compressed.is_some(), length > 200, "{bits} {length}");
            if let Some(compressed) = compressed {
                assert!(compressed.len() < length);
                assert_eq!(inflated(&compressed, 1 << 20, length, None).as_ref(), Ok(&message), "{bits} {length}");
            }
        }
    }
}

#[test]
fn a_message_that_does_not_get_shorter_is_not_compressed() {
    for length in [0, 1, 10, 1000, 100_000] {
        assert_eq!(compress(&noise(length), 15, None), None, "{length}");
    }
}

#[test]
fn messages_refer_to_those_before_them_within_the_window() {
    for bits in [9, 12, 15] {
        let (mut sent, mut received) = (SlidingWindow::default(), SlidingWindow::default());
        for number in 0..50 {
            let message =
                format!("{{\"user\": {number}, \"text\": \"{}\"}}", "some words of a chat ".repeat(3 + number % 7));
            let compressed = compress(message.as_bytes(), bits, Some(&sent)).unwrap();
            assert!(number < 10 || compressed.len() < 60, "{bits} {number} {}", compressed.len());
            assert_eq!(inflate(&compressed, 1000, Some(&received)).as_deref(), Ok(message.as_bytes()));
            sent.add(message.as_bytes(), bits);
            received.add(message.as_bytes(), bits);
            assert!(sent.0.capacity() <= 1 << bits);
        }
    }
}

#[test]
fn a_context_is_the_end_of_all_messages() {
    let mut all = Vec::new();
    let mut context = SlidingWindow::default();
    for length in [0, 1, 200, 311, 1, 511, 512, 513, 3, 2000, 5] {
        let message = noise(length);
        all.extend_from_slice(&message);
        context.add(&message, 9);
        assert_eq!(context.0, all[all.len().saturating_sub(512)..], "{length}");
    }
    context.clear();
    assert!(context.0.is_empty());
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let bomb = compress(&vec![b'a'; 10 << 20], 15, None).unwrap();
    assert!(bomb.len() < 11_000);
    assert_eq!(inflate(&bomb, 1000, None), Err(InflateError::TooBig));
    assert_eq!(inflate(&bomb, 0, None), Err(InflateError::TooBig));
    let mut message = Vec::new();
    let begun = Inflating::new(None).inflate(&bomb, &mut message, 65_536, None);
    assert_eq!((begun, message.len(), message.capacity()), (Err(InflateError::TooBig), 65_536, 65_536));
    // The limit itself is allowed.
    let compressed = compress(&vec![b'a'; 5000], 15, None).unwrap();
    assert_eq!(inflate(&compressed, 5000, None).map(|message| message.len()), Ok(5000));
    assert_eq!(inflate(&compressed, 4999, None), Err(InflateError::TooBig));
}

#[test]
fn input_that_is_not_whole_blocks_is_corrupt() {
    let table: [&[u8]; 9] = [
        b"",
        b"Hello",
        // The kind of block that does not exist.
        &[0x07],
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9],
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07],
        // The sender has not removed the end of the flush.
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0xff],
        // A block without compression whose length and its complement differ, and one that is cut.
        &[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0x00, 0x04, 0x00, 0xfb, 0xff],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48],
    ];
    for input in table {
        assert_eq!(inflate(input, 100, None), Err(InflateError::Corrupt), "{input:02x?}");
    }
}

#[test]
fn many_empty_blocks_count_as_work() {
    let mut context = SlidingWindow::default();
    context.add(&noise(1 << 15), 15);
    let mut message = Vec::new();
    let work = Inflating::new(Some(&context)).inflate(&[3, 0].repeat(10), &mut message, 100, Some(&context));
    assert!(message.is_empty());
    assert!(work.unwrap() >= 10 << 15);
}

#[test]
fn states_are_used_again_and_few_are_kept() {
    let message = text(1000);
    let many: Vec<Compressing> = (0..10).map(|_| Compressing::new(&message, 15, None)).collect();
    for mut compressing in many {
        while !compressing.step() {}
        let compressed = compressing.finish().unwrap();
        assert_eq!(inflate(&compressed, 1000, None).as_ref(), Ok(&message));
    }
    assert!(lock(&COMPRESSORS).len() <= KEPT_STATES && lock(&INFLATERS).len() <= KEPT_STATES);
}
