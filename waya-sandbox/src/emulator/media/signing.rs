//! What the media servers hand out and know again: tokens for uploading, addresses for downloading.
//!
//! Both say when they end and are signed, so that nothing about them is stored.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a signature.
const SIGNATURE: usize = 16;

#[derive(Clone)]
pub(super) struct Signer([u8; 32]);

impl std::fmt::Debug for Signer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Signer")
    }
}

/// Why an address does not lead to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadAddress {
    /// It was not made here, or was changed.
    Forged,
    /// It was good once.
    Expired,
}

impl Signer {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    fn mac(&self, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Some(mac)
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let signature = self.mac(parts).map(|mac| mac.finalize().into_bytes());
        URL_SAFE_NO_PAD.encode(&signature.unwrap_or_default()[..SIGNATURE])
    }

    fn fits(&self, parts: &[&[u8]], signature: &str) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        signature.len() == SIGNATURE && self.mac(parts).is_some_and(|mac| mac.verify_truncated_left(&signature).is_ok())
    }

    /// What a device of a phone uploads with, until `until` (unix seconds).
    pub(super) fn token(&self, (phone, device): (&str, u16), until: i64) -> String {
        let (owner, until) = (format!("{phone}.{device}"), format!("{until:x}"));
        let signature = self.sign(&[b"token", owner.as_bytes(), until.as_bytes()]);
        format!("{owner}-{until}-{signature}")
    }

    /// Whose token this is; `None` for one that ended or was never given out.
    pub(super) fn owner<'a>(&self, token: &'a str, now: i64) -> Option<(&'a str, u16)> {
        // The signature may hold dashes, what stands before it does not.
        let (owner, rest) = token.split_once('-')?;
        let (until, signature) = rest.split_once('-')?;
        let good = i64::from_str_radix(until, 16).ok()? > now
            && self.fits(&[b"token", owner.as_bytes(), until.as_bytes()], signature);
        let (phone, device) = owner.rsplit_once('.').filter(|_| good)?;
        Some((phone, device.parse().ok()?))
    }

    /// The query of a file's address that is good until `until` (unix seconds).
    pub(super) fn query(&self, name: &str, until: i64) -> String {
        let until = format!("{until:X}");
        let signature = self.sign(&[b"address", name.as_bytes(), until.as_bytes()]);
        // The last value takes up what clients append with a second question mark.
        format!("ccb=11-4&oh={signature}&oe={until}&_nc_sid=5e03e0")
    }

    /// Whether this query of this file's address is good now.
    pub(super) fn check(&self, name: &str, query: &str, now: i64) -> Result<(), BadAddress> {
        let (signature, until) = (parameter(query, "oh"), parameter(query, "oe"));
        let (Some(signature), Some(until)) = (signature, until) else { return Err(BadAddress::Forged) };
        if !self.fits(&[b"address", name.as_bytes(), until.as_bytes()], signature) {
            return Err(BadAddress::Forged);
        }
        let good = i64::from_str_radix(until, 16).is_ok_and(|until| until > now);
        if good { Ok(()) } else { Err(BadAddress::Expired) }
    }
}

/// A value of a query that may have been appended to with `?` instead of `&`.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split(['&', '?'])
        .find_map(|pair| pair.split_once('=').filter(|(known, _)| *known == name))
        .map(|(_, value)| value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_owner_until_it_ends() {
        let signer = Signer::new([7; 32]);
        let token = signer.token(("6281200000001", 2), 100);
        assert_eq!(signer.owner(&token, 99), Some(("6281200000001", 2)));
        assert_eq!(signer.owner(&token, 100), None);
        assert_eq!(Signer::new([8; 32]).owner(&token, 99), None);
        assert_eq!(signer.owner(&token.replacen('1', "2", 1), 99), None);
        assert_eq!(signer.owner(&token.replacen(".2", ".3", 1), 99), None);
        for text in ["", "-", "--", "6281-ff", "6281-ff-", "6281-zz-aaaa"] {
            assert_eq!(signer.owner(text, 0), None, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_good_for_its_file_and_its_time() {
        let signer = Signer::new([7; 32]);
        let query = signer.query("one.enc", 1_000);
        assert_eq!(signer.check("one.enc", &query, 999), Ok(()));
        assert_eq!(signer.check("one.enc", &format!("{query}?auth=x&token=y"), 999), Ok(()));
        assert_eq!(signer.check("one.enc", &query, 1_000), Err(BadAddress::Expired));
        assert_eq!(signer.check("two.enc", &query, 999), Err(BadAddress::Forged));
        assert_eq!(signer.check("one.enc", &query.replace("oe=3E8", "oe=FFFF"), 999), Err(BadAddress::Forged));
        assert_eq!(signer.check("one.enc", "", 0), Err(BadAddress::Forged));
    }
}
