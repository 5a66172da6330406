//! The second factor: codes of an authenticator app (RFC 6238) and the backup codes for when it is lost.
//!
//! A code is six digits of an HMAC over the number of the 30 s step, by RFC 4226. SHA-1 is what every app can do; the
//! collisions found for it don't touch HMAC.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use rand::Rng;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::settings::Secret;

/// Source: RFC 4226, 4 R6: 160 bits are recommended.
const SEED_BYTES: usize = 20;
const DIGITS: usize = 6;
/// Source: RFC 6238, 5.2.
const STEP_SECONDS: i64 = 30;
/// Steps that a clock may be wrong by, in either direction.
const SKEW_STEPS: i64 = 1;
/// Side of a QR code's picture, at least.
const QR_PIXELS: u32 = 240;

/// How many backup codes there are.
pub const BACKUP_CODES: usize = 10;
const BACKUP_BYTES: usize = 10;
const BACKUP_GROUP: usize = 4;
/// What digests of backup codes begin with, so that they are digests of nothing else.
const BACKUP_INPUT: &[u8] = b"chatpulse backup code\0";

/// What an authenticator app and we both know.
#[derive(Clone)]
pub struct TotpSeed(Secret<[u8; SEED_BYTES]>);

/// An address that no QR code can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address is too long for a QR code: type the secret into the app instead")]
pub struct QrTooLong;

impl TotpSeed {
    /// A new one.
    pub fn random() -> TotpSeed {
        let mut seed = Zeroizing::new([0u8; SEED_BYTES]);
        rand::rng().fill_bytes(seed.as_mut_slice());
        TotpSeed::from_bytes(*seed)
    }

    pub fn from_bytes(seed: [u8; SEED_BYTES]) -> TotpSeed {
        TotpSeed(Secret::new(seed))
    }

    /// The seed that [`TotpSeed::base32`] showed; `None` for anything else.
    pub fn from_base32(text: &str) -> Option<TotpSeed> {
        let seed = Zeroizing::new(BASE32_NOPAD.decode(text.as_bytes()).ok()?);
        seed.as_slice().try_into().ok().map(TotpSeed::from_bytes)
    }

    pub fn as_bytes(&self) -> &[u8; SEED_BYTES] {
        self.0.expose()
    }

    /// The seed as apps take it when it is typed, and as text to be sealed: 32 letters and digits.
    pub fn base32(&self) -> Secret<String> {
        Secret::new(BASE32_NOPAD.encode(self.as_bytes()))
    }

    /// The address that an app takes the seed from. Source: the "Key URI Format" of Google Authenticator.
    pub fn uri(&self, issuer: &str, email: &str) -> Secret<String> {
        let (issuer, email) = (percent_encoded(issuer), percent_encoded(email));
        let seed = self.base32();
        Secret::new(format!(
            "otpauth://totp/{issuer}:{email}?secret={}&issuer={issuer}\
             &algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}",
            seed.expose()
        ))
    }

    /// The address as a QR code, black on white, with the quiet zone. It shows the seed: for its owner alone.
    ///
    /// # Errors
    /// [`QrTooLong`]: over about 2,300 bytes.
    pub fn qr_svg(uri: &Secret<String>) -> Result<String, QrTooLong> {
        let code = QrCode::with_error_correction_level(uri.expose(), EcLevel::M).map_err(|_| QrTooLong)?;
        Ok(code.render::<svg::Color<'_>>().min_dimensions(QR_PIXELS, QR_PIXELS).build())
    }

    /// The step that `code` is right for at `now` (Unix seconds), if any, newer than `after` (the last one that was
    /// accepted: RFC 6238, 5.2 forbids a second time). Store it with a compare-and-set before letting anyone in.
    pub fn step_of(&self, code: &str, now: i64, after: Option<i64>) -> Option<i64> {
        let code: Zeroizing<String> = Zeroizing::new(code.chars().filter(|c| !c.is_whitespace()).collect());
        let current = now.div_euclid(STEP_SECONDS);
        // The newest first: should a code be right for two steps, it is used up for both.
        (current - SKEW_STEPS..=current + SKEW_STEPS)
            .rev()
            .filter(|step| after.is_none_or(|after| *step > after))
            .find(|step| self.code_of(*step).as_bytes().ct_eq(code.as_bytes()).into())
    }

    fn code_of(&self, step: i64) -> Zeroizing<String> {
        let code = self.truncated(step) % 10u32.pow(DIGITS as u32);
        Zeroizing::new(format!("{code:0DIGITS$}"))
    }

    /// Source: RFC 4226, 5.3, "dynamic truncation".
    fn truncated(&self, step: i64) -> u32 {
        let mac = Hmac::<Sha1>::new_from_slice(self.as_bytes());
        // An HMAC takes keys of any length.
        let mut mac = mac.expect("a key of any length");
        mac.update(&step.to_be_bytes());
        let mac = mac.finalize().into_bytes();
        let at = usize::from(mac[mac.len() - 1] & 0xf);
        u32::from_be_bytes([mac[at], mac[at + 1], mac[at + 2], mac[at + 3]]) & 0x7fff_ffff
    }
}

/// New backup codes: 80 random bits each, in four groups of letters and digits.
pub fn backup_codes() -> [Secret<String>; BACKUP_CODES] {
    std::array::from_fn(|_| backup_code())
}

/// What is stored of a backup code. However it was typed: case, dashes and white space don't matter, nor a digit for
/// the letter that it looks like. Plain SHA-256, because 80 random bits are not guessed.
pub fn backup_code_digest(code: &str) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(BACKUP_INPUT);
    for typed in code.bytes().filter(u8::is_ascii_alphanumeric) {
        // Base32 has none of these digits.
        let letter = match typed.to_ascii_uppercase() {
            b'0' => b'O',
            b'1' => b'I',
            b'8' => b'B',
            letter => letter,
        };
        digest.update([letter]);
    }
    digest.finalize().into()
}

fn backup_code() -> Secret<String> {
    let mut random = Zeroizing::new([0u8; BACKUP_BYTES]);
    rand::rng().fill_bytes(random.as_mut_slice());
    let letters = Zeroizing::new(BASE32_NOPAD.encode(random.as_slice()));
    let mut code = String::with_capacity(letters.len() + letters.len() / BACKUP_GROUP);
    for (place, letter) in letters.chars().enumerate() {
        if place > 0 && place.is_multiple_of(BACKUP_GROUP) {
            code.push('-');
        }
        code.push(letter);
    }
    Secret::new(code)
}

/// Apps don't read `+` as a space.
fn percent_encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed of the test vectors of RFC 4226 and RFC 6238.
    fn seed() -> TotpSeed {
        TotpSeed::from_bytes(*b"12345678901234567890")
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B, SHA1: eight digits.
        for (at, code) in [
            (59, 94_287_082),
            (1_111_111_109, 7_081_804),
            (1_111_111_111, 14_050_471),
            (1_234_567_890, 89_005_924),
            (2_000_000_000, 69_279_037),
            (20_000_000_000_i64, 65_353_130),
        ] {
            assert_eq!(seed().truncated(at / STEP_SECONDS) % 100_000_000, code, "at {at}");
        }
    }

    #[test]
    fn codes_are_those_of_rfc_4226() {
        // Appendix D.
        let codes = "755224 287082 359152 969429 338314 254676 287922 162583 399871 520489";
        for (step, code) in (0..).zip(codes.split(' ')) {
            assert_eq!(*seed().code_of(step), code, "step {step}");
        }
    }

    #[test]
    fn a_code_with_zeros_in_front_has_six_digits() {
        assert_eq!(*seed().code_of(1_111_111_109 / STEP_SECONDS), "081804");
    }

    #[test]
    fn a_code_is_right_in_its_step_and_one_around_it() {
        let code = seed().code_of(1000);
        for (now, right) in [
            (999 * 30 - 1, false),
            (999 * 30, true),
            (1000 * 30, true),
            (1002 * 30 - 1, true),
            (1002 * 30, false),
        ] {
            assert_eq!(seed().step_of(&code, now, None), right.then_some(1000), "at {now}");
        }
    }

    #[test]
    fn a_step_is_never_accepted_twice_nor_an_older_one() {
        let now = 1000 * 30;
        let codes = [999, 1000, 1001].map(|step| seed().code_of(step));
        assert_eq!(seed().step_of(&codes[1], now, Some(999)), Some(1000));
        assert_eq!(seed().step_of(&codes[1], now, Some(1000)), None);
        assert_eq!(seed().step_of(&codes[0], now, Some(1000)), None);
        assert_eq!(seed().step_of(&codes[2], now, Some(1000)), Some(1001));
        assert_eq!(seed().step_of(&codes[2], now, Some(i64::MAX)), None);
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let (now, code) = (1000 * 30, seed().code_of(1000));
        let spaced = format!(" {} {} ", &code[..3], &code[3..]);
        assert_eq!(seed().step_of(&spaced, now, None), Some(1000));
        let longer = format!("{}0", *code);
        for wrong in ["", "0", "abcdef", "+12345", "１２３４５６", &code[1..], &longer] {
            assert_eq!(seed().step_of(wrong, now, None), None, "{wrong}");
        }
        assert_eq!(TotpSeed::random().step_of("", i64::MAX, None), None);
        assert_eq!(TotpSeed::random().step_of("", i64::MIN, None), None);
    }

    #[test]
    fn a_seed_comes_back_from_its_text() {
        let seed = TotpSeed::random();
        let text = seed.base32();
        assert_eq!(text.expose().len(), 32);
        assert_eq!(TotpSeed::from_base32(text.expose()).unwrap().as_bytes(), seed.as_bytes());
        for wrong in ["", "AAAA", "not base 32", &text.expose()[1..], &format!("{}AAAAAAAA", text.expose())] {
            assert!(TotpSeed::from_base32(wrong).is_none(), "{wrong}");
        }
        assert_ne!(TotpSeed::random().as_bytes(), seed.as_bytes());
    }

    #[test]
    fn the_address_names_issuer_and_account_and_says_how_codes_are_made() {
        assert_eq!(
            seed().uri("Chat Pulse", "a+b@example.org").expose(),
            "otpauth://totp/Chat%20Pulse:a%2Bb%40example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Chat%20Pulse&algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn the_qr_code_is_a_picture_without_markup_of_the_account() {
        let svg = TotpSeed::qr_svg(&seed().uri("ChatPulse", "<script>@example.org")).unwrap();
        assert!(svg.contains("<svg") && svg.ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("script"), "{svg}");
        assert_eq!(TotpSeed::qr_svg(&Secret::new("a".repeat(4000))), Err(QrTooLong));
    }

    #[test]
    fn backup_codes_are_ten_and_never_alike() {
        let codes = backup_codes();
        let digests: std::collections::HashSet<[u8; 32]> =
            codes.iter().map(|code| backup_code_digest(code.expose())).collect();
        assert_eq!(digests.len(), 10);
        for code in &codes {
            let groups: Vec<&str> = code.expose().split('-').collect();
            assert!(groups.len() == 4 && groups.iter().all(|group| group.len() == 4));
        }
    }

    #[test]
    fn a_backup_code_is_known_however_it_is_typed() {
        let digest = backup_code_digest("ABOI-LBCD-2345-67XY");
        for typed in [" aboi lbcd\t2345 67xy\n", "AB01-L8CD-2345-67XY", "ab0i–lbcd234567XY"] {
            assert_eq!(backup_code_digest(typed), digest, "{typed}");
        }
        for other in ["", "ABOI-LBCD-2345-67XZ", "ABOI-LBCD-2345-67X", "ABOI-LBCD-2345-67XYA"] {
            assert_ne!(backup_code_digest(other), digest, "{other}");
        }
    }
}
