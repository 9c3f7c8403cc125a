//! How a record lies in the database: format version, flags, CRC, payload.
//!
//! The CRC covers the key, so that a record under a wrong key is noticed, too. A payload that does not fit
//! [`MAX_VALUE`] lies in a body file and the record names it.

use sled::IVec;

use super::bodies::BodyHash;

/// No value in the database is longer: longer ones would end in sled's own blob files, which it never fsyncs.
pub const MAX_VALUE: usize = 8 * 1024;
/// Longer payloads go to a body file.
pub const MAX_PAYLOAD: usize = MAX_VALUE - HEADER;

const FORMAT: u8 = 1;
const IN_BODY: u8 = 1;
const HEADER: usize = 6;

/// A record cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Shorter than its header.
    #[error("it is cut short")]
    Short,
    /// Written by a newer version.
    #[error("its format {0} is not known")]
    Format(u8),
    /// The CRC does not fit.
    #[error("its checksum does not fit")]
    Checksum,
    /// The payload makes no sense.
    #[error("its content makes no sense")]
    Content,
}

/// A record's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Here it is.
    Inline(&'a [u8]),
    /// It lies in this body file.
    Body(BodyHash),
}

/// Makes a record of a payload of at most [`MAX_PAYLOAD`] bytes.
pub fn seal(key: &[u8], payload: &[u8]) -> IVec {
    write(key, 0, payload)
}

/// Makes a record that names a body file.
pub fn seal_body(key: &[u8], body: BodyHash) -> IVec {
    write(key, IN_BODY, &body.0)
}

/// Checks a record and gives its payload.
pub fn unseal<'a>(key: &[u8], record: &'a [u8]) -> Result<Payload<'a>, Bad> {
    let (header, payload) = record.split_at_checked(HEADER).ok_or(Bad::Short)?;
    let (format, flags) = (header[0], header[1]);
    if format != FORMAT {
        return Err(Bad::Format(format));
    }
    if header[2..] != checksum(key, flags, payload).to_le_bytes() {
        return Err(Bad::Checksum);
    }
    if flags & IN_BODY == 0 {
        return Ok(Payload::Inline(payload));
    }
    payload.try_into().map(|hash| Payload::Body(BodyHash(hash))).map_err(|_| Bad::Content)
}

/// Checks a record and gives its payload, which must be inline.
pub fn unseal_inline<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], Bad> {
    match unseal(key, record)? {
        Payload::Inline(payload) => Ok(payload),
        Payload::Body(_) => Err(Bad::Content),
    }
}

fn write(key: &[u8], flags: u8, payload: &[u8]) -> IVec {
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.push(FORMAT);
    record.push(flags);
    record.extend_from_slice(&checksum(key, flags, payload).to_le_bytes());
    record.extend_from_slice(payload);
    IVec::from(record)
}

fn checksum(key: &[u8], flags: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&[flags]);
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_sealed_is_read_back_and_any_flipped_bit_is_noticed(
            key in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
            payload in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            at in proptest::num::usize::ANY,
            bit in 0_u8..8,
        ) {
            let record = seal(&key, &payload);
            proptest::prop_assert_eq!(unseal(&key, &record), Ok(Payload::Inline(&payload)));
            let mut broken = record.to_vec();
            let at = at % broken.len();
            broken[at] ^= 1 << bit;
            proptest::prop_assert!(unseal(&key, &broken).is_err());
            proptest::prop_assert!(unseal(b"another key than before, in any case a longer one", &record).is_err());
        }

        #[test]
        fn garbage_never_panics(record in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = unseal(b"key", &record);
        }
    }

    #[test]
    fn a_body_is_named() {
        let record = seal_body(b"key", BodyHash([7; 32]));
        assert_eq!(unseal(b"key", &record), Ok(Payload::Body(BodyHash([7; 32]))));
        assert_eq!(unseal_inline(b"key", &record), Err(Bad::Content));
    }
}
