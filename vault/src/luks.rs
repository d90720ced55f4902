//! A fresh LUKS1 header ("LUKS On-Disk Format Specification", version 1.2.3) in the place of another of the same
//! parameters: AES-256, xts-plain64, SHA-256, 4000 stripes, as QEMU writes it.
//!
//! The passphrase comes from 32 random bytes, so one PBKDF2 iteration is as good as any number: iterations only slow
//! down who tries passphrases that people choose. The same goes for the digest of the random master key. The stripes
//! that make a master key hard to recover from a disk's spare blocks are zero but for the last: whoever destroys the
//! disk's data here destroys the key that sealed the passphrase.

use std::num::NonZeroU32;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};

use crate::fault::{Code, Fault};

const MASTER_BYTES: usize = 64; // two AES-256 keys
const STRIPES: usize = 4000;
const SECTOR: usize = 512;
const SALT_BYTES: usize = 32;
const DIGEST_BYTES: usize = 20;
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN;

const HEADER_BYTES: usize = 592;
const DIGEST_AT: usize = 112;
const DIGEST_SALT_AT: usize = 132;
const DIGEST_ITERATIONS_AT: usize = 164;
const SLOTS_AT: usize = 208;
const SLOT_BYTES: usize = 48;
const SLOTS: usize = 8;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0xdead;

/// What comes out of the anti-forensic diffusion of 3999 stripes of zeros; the last stripe is this XOR the master key.
const DIFFUSED_ZEROS: [u8; MASTER_BYTES] = [
    0x82, 0x56, 0x6f, 0xe9, 0x2f, 0x94, 0x2f, 0x7b, 0x30, 0xd9, 0x46, 0x83, 0xc4, 0x51, 0x10, 0x3f,
    0xb7, 0xd7, 0xdc, 0xfe, 0x78, 0x8a, 0x7a, 0xcb, 0x9e, 0x9a, 0x8e, 0xfc, 0x41, 0x4b, 0x67, 0xc8,
    0xc2, 0xf9, 0x64, 0x7e, 0x8c, 0xe6, 0x5f, 0xbf, 0x27, 0xe1, 0x65, 0x08, 0x4b, 0x62, 0xf1, 0xcb,
    0xc8, 0x67, 0xa9, 0x8b, 0x52, 0x2c, 0x61, 0x25, 0x98, 0x6f, 0xf1, 0xc1, 0x65, 0xde, 0x96, 0xf5,
];

/// Rewrites the header at the beginning of `area`, and its first slot's key material: a new random master key, which
/// `passphrase` opens and nothing else.
///
/// # Errors
/// Invalid when what is there has other parameters.
pub fn renew(area: &mut [u8], passphrase: &[u8]) -> Result<(), Fault> {
    let material_at = check(area)?;
    let master: [u8; MASTER_BYTES] = random()?;
    let digest_salt: [u8; SALT_BYTES] = random()?;
    let slot_salt: [u8; SALT_BYTES] = random()?;

    let mut digest = [0; DIGEST_BYTES];
    derive(&digest_salt, &master, &mut digest);
    area[DIGEST_AT..DIGEST_AT + DIGEST_BYTES].copy_from_slice(&digest);
    area[DIGEST_SALT_AT..DIGEST_SALT_AT + SALT_BYTES].copy_from_slice(&digest_salt);
    put(area, DIGEST_ITERATIONS_AT, ITERATIONS.get());
    for slot in 0..SLOTS {
        let at = SLOTS_AT + slot * SLOT_BYTES;
        put(area, at, if slot == 0 { ACTIVE } else { INACTIVE });
        put(area, at + 4, if slot == 0 { ITERATIONS.get() } else { 0 });
    }
    area[SLOTS_AT + 8..SLOTS_AT + 8 + SALT_BYTES].copy_from_slice(&slot_salt);

    let mut key = [0; MASTER_BYTES];
    derive(&slot_salt, passphrase, &mut key);
    let material = &mut area[material_at..material_at + STRIPES * MASTER_BYTES];
    let (zeros, last) = material.split_at_mut((STRIPES - 1) * MASTER_BYTES);
    zeros.fill(0);
    for (place, (diffused, master)) in last.iter_mut().zip(DIFFUSED_ZEROS.iter().zip(&master)) {
        *place = diffused ^ master;
    }
    encrypt(&key, material);
    Ok(())
}

/// Returns where the first slot's key material is.
fn check(area: &[u8]) -> Result<usize, Fault> {
    let mut wanted = [0; DIGEST_AT];
    wanted[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    wanted[8..11].copy_from_slice(b"aes");
    wanted[40..51].copy_from_slice(b"xts-plain64");
    wanted[72..78].copy_from_slice(b"sha256");
    wanted[111] = 64; // key bytes
    let header = area.get(..HEADER_BYTES).ok_or_else(other)?;
    // The payload's offset, between hash and key bytes, is whatever it is.
    if header[..104] != wanted[..104] || header[108..DIGEST_AT] != wanted[108..] {
        return Err(other());
    }
    let at = get(header, SLOTS_AT + 8 + SALT_BYTES) as usize * SECTOR;
    let stripes = get(header, SLOTS_AT + 12 + SALT_BYTES) as usize;
    if stripes != STRIPES || at < HEADER_BYTES || at + STRIPES * MASTER_BYTES > area.len() {
        return Err(other());
    }
    Ok(at)
}

fn other() -> Fault {
    Fault::invalid("the empty overlay has no LUKS header of QEMU's usual parameters")
}

fn derive(salt: &[u8], secret: &[u8], out: &mut [u8]) {
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, secret, out);
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Fault::new(Code::Failed, "there are no random bytes")),
    }
}

/// AES-256-XTS (IEEE 1619) of whole sectors, numbered from 0.
fn encrypt(key: &[u8; MASTER_BYTES], data: &mut [u8]) {
    let (first, second) = key.split_at(MASTER_BYTES / 2);
    let cipher = Aes256::new(&half(first));
    let tweaker = Aes256::new(&half(second));
    for (number, sector) in data.chunks_exact_mut(SECTOR).enumerate() {
        let mut tweak: Block = Array((number as u128).to_le_bytes());
        tweaker.encrypt_block(&mut tweak);
        let mut mask = u128::from_le_bytes(tweak.0);
        let mut masks = [0; SECTOR / 16];
        let mut blocks = [Block::default(); SECTOR / 16];
        for ((block, plain), kept) in blocks
            .iter_mut()
            .zip(sector.chunks_exact(16))
            .zip(&mut masks)
        {
            block.copy_from_slice(plain);
            *block = Array((u128::from_le_bytes(block.0) ^ mask).to_le_bytes());
            *kept = mask;
            // Times x in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1.
            mask = (mask << 1) ^ ((mask >> 127) * 0x87);
        }
        cipher.encrypt_blocks(&mut blocks);
        for ((block, place), mask) in blocks.iter().zip(sector.chunks_exact_mut(16)).zip(masks) {
            place.copy_from_slice(&(u128::from_le_bytes(block.0) ^ mask).to_le_bytes());
        }
    }
}

fn half(bytes: &[u8]) -> aes::cipher::Key<Aes256> {
    let mut key = [0; MASTER_BYTES / 2];
    key.copy_from_slice(bytes);
    Array(key)
}

fn get(area: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&area[at..at + 4]);
    u32::from_be_bytes(bytes)
}

fn put(area: &mut [u8], at: usize, number: u32) {
    area[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::digest::{digest, SHA256};

    /// The constant is what the format's diffusion makes of 3999 stripes of zeros.
    #[test]
    fn diffused_zeros() {
        let mut stripe = [0; MASTER_BYTES];
        for _ in 0..STRIPES - 1 {
            for (number, half) in (0_u32..).zip(stripe.chunks_exact_mut(32)) {
                let block = [&number.to_be_bytes()[..], half].concat();
                half.copy_from_slice(digest(&SHA256, &block).as_ref());
            }
        }

        assert_eq!(stripe, DIFFUSED_ZEROS);
    }

    /// IEEE 1619-2007, vector 10: sector 0xff, so the last of 256 here; its first block.
    #[test]
    fn xts_vector() {
        let key = [
            0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71,
            0x35, 0x26, 0x62, 0x49, 0x77, 0x57, 0x24, 0x70, 0x93, 0x69, 0x99, 0x59, 0x57, 0x49,
            0x66, 0x96, 0x76, 0x27, 0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84,
            0x62, 0x64, 0x33, 0x83, 0x27, 0x95, 0x02, 0x88, 0x41, 0x97, 0x16, 0x93, 0x99, 0x37,
            0x51, 0x05, 0x82, 0x09, 0x74, 0x94, 0x45, 0x92,
        ];
        let mut data: Vec<u8> = (0..=255).cycle().take(256 * SECTOR).collect();

        encrypt(&key, &mut data);

        let last = &data[255 * SECTOR..];
        let wanted = [
            0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03, 0x86, 0xe4, 0x83, 0x6c, 0x99, 0xe3, 0x70,
            0xcf, 0x9b,
        ];
        assert_eq!(last[..16], wanted);
    }

    /// Other parameters, or key material outside of the area, are refused.
    #[test]
    fn refused() {
        assert!(renew(&mut [0; 100], b"x").is_err());
        assert!(renew(&mut vec![0; 1 << 20], b"x").is_err());
    }
}
