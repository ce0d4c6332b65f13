//! Values as JSON (RFC 8259), in ASCII: text from anywhere becomes a valid string on one line.

/// Digits of the largest `u64`.
const MOST_DIGITS: usize = 20;

/// Adds a string. `bytes` may be anything: UTF-8 is kept as `\u` escapes, and a byte that is no UTF-8 becomes the text
/// `\xe9`, as in other access logs. No byte of the result is a control character, so that a value can neither begin a
/// line nor control a terminal.
pub fn push_string(json: &mut Vec<u8>, bytes: &[u8]) {
    json.push(b'"');
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        let (plain, special) = rest.split_at(at);
        json.extend_from_slice(plain);
        let length = special.iter().position(|&byte| is_plain(byte)).unwrap_or(special.len());
        let (special, after) = special.split_at(length);
        push_special(json, special);
        rest = after;
    }
    json.extend_from_slice(rest);
    json.push(b'"');
}

/// Adds a whole number.
pub fn push_number(json: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; MOST_DIGITS];
    let mut rest = number;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    json.extend_from_slice(digits.get(MOST_DIGITS - length..).unwrap_or_default());
}

/// Adds `number` with at least `width` digits.
pub fn push_padded(json: &mut Vec<u8>, number: u64, width: u32) {
    let digits = number.checked_ilog10().map_or(1, |log| log + 1);
    for _ in digits..width {
        json.push(b'0');
    }
    push_number(json, number);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn push_special(json: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => json.extend_from_slice(&[b'\\', character as u8]),
                '\n' => json.extend_from_slice(b"\\n"),
                '\r' => json.extend_from_slice(b"\\r"),
                '\t' => json.extend_from_slice(b"\\t"),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        json.extend_from_slice(b"\\u");
                        push_hexadecimal(json, (*unit >> 8) as u8);
                        push_hexadecimal(json, *unit as u8);
                    }
                }
            }
        }
        for &byte in chunk.invalid() {
            json.extend_from_slice(b"\\\\x");
            push_hexadecimal(json, byte);
        }
    }
}

fn push_hexadecimal(json: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.extend([byte >> 4, byte & 15].map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> String {
        let mut json = Vec::new();
        push_string(&mut json, bytes);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn every_byte_becomes_printable_ascii() {
        for byte in 0..=255 {
            for text in [&[byte][..], &[b'a', byte, b'b'], &[0xc3, byte], &[byte, 0x80], &[0xf0, 0x9f, 0x92, byte]] {
                let json = string(text);
                assert!(json.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{json:?}");
                assert!(json.starts_with('"') && json.ends_with('"'));
            }
        }
    }

    #[test]
    fn text_is_escaped_and_invalid_utf_8_is_shown() {
        assert_eq!(string(br#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(string(b"\r\n\t\x1b\x7f\0"), r#""\r\n\t\u001b\u007f\u0000""#);
        assert_eq!(string("é\u{85}\u{2028}😀".as_bytes()), r#""\u00e9\u0085\u2028\ud83d\ude00""#);
        assert_eq!(string(b"caf\xe9 \xc3"), r#""caf\\xe9 \\xc3""#);
        assert_eq!(string(b"\xed\xa0\x80"), r#""\\xed\\xa0\\x80""#);
        assert_eq!(string(b""), r#""""#);
    }

    #[test]
    fn numbers_have_no_leading_zeros_unless_padded() {
        for number in [0, 7, 10, 999, 1000, u64::MAX] {
            let mut json = Vec::new();
            push_number(&mut json, number);
            assert_eq!(String::from_utf8(json).unwrap(), number.to_string());
            let mut json = Vec::new();
            push_padded(&mut json, number, 6);
            assert_eq!(String::from_utf8(json).unwrap(), format!("{number:06}"));
        }
    }
}
