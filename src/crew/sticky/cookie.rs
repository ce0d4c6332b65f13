//! Our cookie: `<place>.<signature>`. The signature is HMAC-SHA-256 of the cookie's name and the place, by the key of
//! the service, cut to 128 bits (RFC 2104 5).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The bytes of a signature.
const SIGNATURE_BYTES: usize = 16;

/// The most bytes of a value that are looked at; ours are shorter.
const MOST_BYTES: usize = 64;

/// Makes and checks the cookies of one name.
pub struct CookieSigner {
    name: String,
    /// The state after the key and the name.
    signature: Hmac<Sha256>,
}

impl CookieSigner {
    /// Signs with `key`, which may have any length.
    pub fn new(name: &str, key: &[u8]) -> CookieSigner {
        let mut signature = match Hmac::<Sha256>::new_from_slice(key) {
            Ok(signature) => signature,
            // HMAC takes a key of any length.
            Err(_) => Hmac::<Sha256>::new(&Default::default()),
        };
        signature.update(b"rmeinheld sticky cookie\0");
        signature.update(name.as_bytes());
        signature.update(b"\0");
        CookieSigner { name: name.to_owned(), signature }
    }

    /// The value of Set-Cookie that names a place.
    pub fn set_cookie(&self, place: u32, is_secure: bool) -> String {
        let signed = self.signed(place).finalize().into_bytes();
        let signature = URL_SAFE_NO_PAD.encode(signed.get(..SIGNATURE_BYTES).unwrap_or_default());
        let secure = if is_secure { "; Secure" } else { "" };
        format!("{}={place}.{signature}; Path=/; HttpOnly; SameSite=Lax{secure}", self.name)
    }

    /// The values of the cookie in a Cookie field (RFC 6265 4.2.1). There may be several, of other paths or forged.
    pub fn values<'a>(&self, field: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let pairs = field.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        pairs.filter_map(|pair| pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))
    }

    /// The place in a value that we have signed.
    pub fn place_of(&self, value: &[u8]) -> Option<u32> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MOST_BYTES)?;
        let (digits, signature) = text.split_once('.')?;
        let place: u32 = digits.parse().ok().filter(|place: &u32| place.to_string() == digits)?;
        let mut decoded = [0; MOST_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut decoded).ok()?;
        let decoded = decoded.get(..length).filter(|decoded| decoded.len() == SIGNATURE_BYTES)?;
        // The comparison takes the same time for every signature.
        self.signed(place).verify_truncated_left(decoded).ok().map(|()| place)
    }

    fn signed(&self, place: u32) -> Hmac<Sha256> {
        let mut signature = self.signature.clone();
        signature.update(&place.to_be_bytes());
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(signer: &CookieSigner, place: u32) -> String {
        let whole = signer.set_cookie(place, false);
        whole.split_once(';').unwrap().0.split_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn a_cookie_of_ours_is_known_and_every_other_one_is_not() {
        let signer = CookieSigner::new("worker", b"key");
        let good = value(&signer, 3);
        assert_eq!(signer.place_of(good.as_bytes()), Some(3));
        assert!(signer.set_cookie(3, true).ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"));
        for other in [CookieSigner::new("worker", b"other"), CookieSigner::new("other", b"key")] {
            assert_eq!(other.place_of(good.as_bytes()), None);
        }
        let signature = good.split_once('.').unwrap().1;
        let long = "a".repeat(100_000);
        let forged = [
            format!("2.{signature}"),
            format!("03.{signature}"),
            format!("+3.{signature}"),
            format!("4294967299.{signature}"),
            format!("3.{}", &signature[..20]),
            format!("3.{signature}A"),
            format!("3.{}", signature.to_uppercase()),
            "3.".to_owned(),
            "3".to_owned(),
            String::new(),
            long,
        ];
        for text in forged {
            assert_eq!(signer.place_of(text.as_bytes()), None, "{text:.50}");
        }
    }

    #[test]
    fn no_changed_byte_leaves_a_cookie_valid() {
        let signer = CookieSigner::new("worker", b"key");
        let good = value(&signer, 12).into_bytes();
        for index in 0..good.len() {
            for byte in 0..=255 {
                let mut changed = good.clone();
                changed[index] = byte;
                assert_eq!(signer.place_of(&changed), (changed == good).then_some(12), "{index} {byte}");
            }
        }
    }

    #[test]
    fn a_field_may_have_several_cookies_of_the_name() {
        let signer = CookieSigner::new("w", b"key");
        let found: Vec<&[u8]> = signer.values(b"a=1; w=2;w=3 ;  ww=4; w; W=5; w==6; w=").collect();
        assert_eq!(found, [&b"2"[..], b"3", b"=6", b""]);
    }
}
