//! Native strings of PEP 3333: `str` objects that hold latin-1.

use std::borrow::Cow;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::types::string::PyStringData;

use crate::websocket::short::Ascii;

/// The highest code point of ASCII.
const ASCII: u32 = 0x7f;

/// The `str` with these bytes as its code points.
#[expect(unsafe_code, reason = "pyo3 decodes only UTF-8, and this runs for every header of every request")]
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let length = isize::try_from(bytes.len()).unwrap_or(isize::MAX);
    // SAFETY: pointer and length of a live slice; the errors argument may be null. A new reference or null comes back.
    unsafe {
        let text = pyo3::ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), length, std::ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}

/// The `str` with this text.
///
/// # Errors
/// MemoryError.
pub fn string<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    Ascii::new(text.as_bytes()).map_or_else(|| Ok(PyString::new(py, text)), |text| ascii(py, text))
}

/// The `str` with this text, which is copied. CPython's decoder of UTF-8 would look at each byte again.
///
/// # Errors
/// MemoryError.
#[expect(unsafe_code, reason = "pyo3 only decodes, and this runs for every message of a WebSocket")]
pub fn ascii<'py>(py: Python<'py>, text: Ascii<'_>) -> PyResult<Bound<'py, PyString>> {
    let text = text.as_bytes();
    let length = isize::try_from(text.len()).unwrap_or(isize::MAX);
    // SAFETY: attached, as the token shows. A new str of ASCII has room for `length` bytes, one for each character, and
    // nothing else has seen it before they are written. The empty str is shared, and nothing is written to it. `Ascii`
    // holds nothing else.
    unsafe {
        let object = pyo3::ffi::PyUnicode_New(length, ASCII);
        let string = Bound::from_owned_ptr_or_err(py, object)?;
        let data = pyo3::ffi::PyUnicode_DATA(string.as_ptr()).cast::<u8>();
        std::ptr::copy_nonoverlapping(text.as_ptr(), data, text.len());
        Ok(string.cast_into_unchecked())
    }
}

/// The code points of a `str` as bytes.
///
/// # Errors
/// ValueError, naming `what`, if one is above U+00FF.
#[expect(unsafe_code, reason = "CPython keeps latin-1 as bytes, and this runs for every header of every response")]
pub fn latin1_bytes<'a>(text: &'a Bound<'_, PyString>, what: &str) -> PyResult<&'a [u8]> {
    // SAFETY: a str object never changes, and `text` keeps it alive.
    match unsafe { text.data() } {
        // The widest code point decides how a str is kept.
        Ok(PyStringData::Ucs1(bytes)) => Ok(bytes),
        _ => {
            Err(PyValueError::new_err(format!("{what} has a character outside latin-1 (PEP 3333, \"Unicode Issues\")")))
        }
    }
}

/// TypeError: the rule that a value breaks, its type, and where the rule comes from.
pub fn wrong_type(rule: &str, value: &Bound<'_, PyAny>, source: &str) -> PyErr {
    let name = value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{rule}, not {name} ({source})"))
}

/// `HTTP_` and the name in capitals with underscores; CONTENT_TYPE and CONTENT_LENGTH stand without the prefix.
pub fn environ_key(name: &[u8]) -> String {
    let mut key = String::with_capacity(name.len() + 5);
    if !name.eq_ignore_ascii_case(b"content-type") && !name.eq_ignore_ascii_case(b"content-length") {
        key.push_str("HTTP_");
    }
    key.extend(name.iter().map(|&byte| if byte == b'-' { '_' } else { char::from(byte.to_ascii_uppercase()) }));
    key
}

/// Decodes `%XX` once. A `%` without two hexadecimal digits behind it stays as it is.
pub fn percent_decode(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'%', path) else { return Cow::Borrowed(path) };
    let (plain, mut rest) = path.split_at(first);
    let mut decoded = plain.to_vec();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(byte);
        }
    }
    Cow::Owned(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::testing::with_python;

    #[test]
    fn text_of_every_kind_becomes_the_same_str() {
        with_python(|py| {
            for text in ["", "a", "a longer text of nothing but ASCII", "\u{e9}", "\u{20ac} and \u{1f600}", "\0"] {
                let object = string(py, text).unwrap();
                assert_eq!(object.to_str().unwrap(), text);
                assert_eq!(object.compare(PyString::new(py, text)).unwrap(), std::cmp::Ordering::Equal);
                assert_eq!(object.hash().unwrap(), PyString::new(py, text).hash().unwrap());
            }
        });
    }

    #[test]
    fn a_path_is_decoded_once_and_bad_escapes_stay() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"/plain", b"/plain"),
            (b"/a%20b", b"/a b"),
            (b"/%2541", b"/%41"),
            (b"/%zz%4", b"/%zz%4"),
            (b"/%C3%a9", b"/\xc3\xa9"),
            (b"%", b"%"),
        ];
        for (sent, expected) in cases {
            assert_eq!(&*percent_decode(sent), expected);
        }
    }

    #[test]
    fn keys_are_those_of_cgi() {
        assert_eq!(environ_key(b"X-Request-Id"), "HTTP_X_REQUEST_ID");
        assert_eq!(environ_key(b"content-LENGTH"), "CONTENT_LENGTH");
    }
}
