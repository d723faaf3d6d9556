"""The barrier: an envelope shows nothing, and opens only as it was written, where it was written."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.errors import ConfigurationError, IntegrityError
from synqx_dagster.vault.envelope import (
    Purpose,
    SecretAddress,
    decode_secret,
    encode_secret,
    generation_of,
    join_parts,
    open_bytes,
    seal_bytes,
)

KEY = bytes(range(32))
CONTEXT = b"somewhere"
CANARY = b"canary-5f2b9a"

addresses = st.builds(
    SecretAddress,
    table=st.text(max_size=8),
    row_id=st.integers(0, 2**63 - 1),
    field=st.text(max_size=8),
    version=st.integers(0, 2**63 - 1),
)


def seal(plaintext: bytes = CANARY, *, context: bytes = CONTEXT, generation: int = 7) -> bytes:
    return seal_bytes(KEY, plaintext, purpose=Purpose.SECRET, context=context, generation=generation)


def open_(envelope: bytes, *, key: bytes = KEY, context: bytes = CONTEXT) -> bytes:
    return open_bytes(key, envelope, purpose=Purpose.SECRET, context=context)


@given(plaintext=st.binary(max_size=300), context=st.binary(max_size=40), generation=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_what_is_sealed_opens(plaintext: bytes, context: bytes, generation: int) -> None:
    envelope = seal(plaintext, context=context, generation=generation)
    assert open_(envelope, context=context) == plaintext
    assert generation_of(envelope) == generation


def test_an_envelope_shows_nothing() -> None:
    envelope = seal()
    assert CANARY not in envelope
    assert KEY not in envelope
    assert CONTEXT not in envelope


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_in_any_position_is_refused(flip: int) -> None:
    envelope = seal()
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= flip
        with pytest.raises(IntegrityError):
            open_(bytes(changed))


def test_an_envelope_cut_or_extended_is_refused() -> None:
    envelope = seal()
    for length in range(len(envelope)):
        with pytest.raises(IntegrityError):
            open_(envelope[:length])
    with pytest.raises(IntegrityError):
        open_(envelope + b"\x00")


def test_another_key_context_or_purpose_is_refused() -> None:
    envelope = seal()
    with pytest.raises(IntegrityError):
        open_(envelope, key=bytes(32))
    with pytest.raises(IntegrityError):
        open_(envelope, context=CONTEXT + b"!")
    for purpose in (Purpose.DATA_KEY, Purpose.ROOT_KEY):
        with pytest.raises(IntegrityError):
            open_bytes(KEY, envelope, purpose=purpose, context=CONTEXT)
        relabelled = envelope[:4] + bytes([purpose]) + envelope[5:]
        with pytest.raises(IntegrityError):
            open_bytes(KEY, relabelled, purpose=purpose, context=CONTEXT)


def test_a_newer_format_is_named() -> None:
    envelope = seal()
    with pytest.raises(IntegrityError, match="format version 2"):
        open_(envelope[:3] + b"\x02" + envelope[4:])


def test_salts_nonces_and_commitments_are_unique_over_ten_thousand_seals() -> None:
    envelopes = [seal() for _ in range(10_000)]
    for start, end in ((9, 41), (41, 53), (53, 85), (85, None)):
        assert len({envelope[start:end] for envelope in envelopes}) == len(envelopes)


@given(first=addresses, second=addresses)
@settings(max_examples=50)
def test_two_addresses_never_share_an_encoding(first: SecretAddress, second: SecretAddress) -> None:
    assert (first.encode() == second.encode()) == (first == second)


def test_the_parts_of_an_address_cannot_slide_into_each_other() -> None:
    assert SecretAddress("a", 1, "bc", 1).encode() != SecretAddress("ab", 1, "c", 1).encode()
    assert join_parts(b"", b"a") != join_parts(b"a", b"")


@pytest.mark.parametrize(("row_id", "version"), [(-1, 1), (2**63, 1), (1, -1), (1, 2**63)])
def test_an_address_out_of_range_is_refused(row_id: int, version: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        SecretAddress("secret", row_id, "password", version)


def test_the_format_is_as_documented() -> None:
    """Opens an envelope by `docs/vault.md` alone: HKDF by hand, no product code."""
    envelope = seal_bytes(KEY, CANARY, purpose=Purpose.DATA_KEY, context=CONTEXT, generation=258)
    header, commitment, sealed = envelope[:53], envelope[53:85], envelope[85:]
    assert header[:9] == b"SXE" + bytes([1, 2, 0, 0, 1, 2])
    salt, nonce = header[9:41], header[41:53]
    associated_data = struct.pack(">Q", 53) + header + struct.pack(">Q", len(CONTEXT)) + CONTEXT
    info = b"synqx vault envelope v1\x00" + associated_data
    pseudorandom_key = hmac.digest(salt, KEY, hashlib.sha256)
    record_key = hmac.digest(pseudorandom_key, info + b"\x01", hashlib.sha256)
    assert commitment == hmac.digest(pseudorandom_key, record_key + info + b"\x02", hashlib.sha256)
    assert AESGCM(record_key).decrypt(nonce, sealed, associated_data) == CANARY


# --- key commitment ----------------------------------------------------------------------------------------


def multiply(left: int, right: int) -> int:
    """Product in the field of GHASH (NIST SP 800-38D, section 6.3); bit 127 is the coefficient of x^0."""
    product = 0
    for position in range(127, -1, -1):
        if right >> position & 1:
            product ^= left
        left = left >> 1 ^ (0xE1 << 120 if left & 1 else 0)
    return product


def power(base: int, exponent: int) -> int:
    result = 1 << 127
    for bit in bin(exponent)[2:]:
        result = multiply(result, result)
        if bit == "1":
            result = multiply(result, base)
    return result


def encrypt_block(key: bytes, block: bytes) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return int.from_bytes(encryptor.update(block) + encryptor.finalize())


def ghash(hash_key: int, blocks: list[int]) -> int:
    state = 0
    for block in blocks:
        state = multiply(state ^ block, hash_key)
    return state


def forge_for_two_keys(first: bytes, second: bytes, nonce: bytes, associated_data: bytes) -> bytes:
    """A ciphertext and tag that AES-GCM accepts under both keys (Dodis et al., CRYPTO 2018)."""
    padded = associated_data + bytes(-len(associated_data) % 16)
    data_blocks = [int.from_bytes(padded[start : start + 16]) for start in range(0, len(padded), 16)]
    chosen = int.from_bytes(os.urandom(16))
    lengths = len(associated_data) * 8 << 64 | 32 * 8
    hash_keys = [encrypt_block(key, bytes(16)) for key in (first, second)]
    masks = [encrypt_block(key, nonce + b"\x00\x00\x00\x01") for key in (first, second)]
    # The second ciphertext block stands before the block of lengths, so it is multiplied by the hash key squared.
    tags = [
        mask ^ ghash(hash_key, [*data_blocks, chosen, 0, lengths])
        for mask, hash_key in zip(masks, hash_keys, strict=True)
    ]
    factor = power(hash_keys[0], 2) ^ power(hash_keys[1], 2)
    solved = multiply(tags[0] ^ tags[1], power(factor, 2**128 - 2))
    tag = masks[0] ^ ghash(hash_keys[0], [*data_blocks, chosen, solved, lengths])
    return chosen.to_bytes(16) + solved.to_bytes(16) + tag.to_bytes(16)


def test_a_ciphertext_that_fits_two_keys_opens_under_the_committed_one_only() -> None:
    keys = (os.urandom(32), os.urandom(32))
    header = seal()[:53]
    salt, nonce = header[9:41], header[41:53]
    associated_data = struct.pack(">Q", 53) + header + struct.pack(">Q", len(CONTEXT)) + CONTEXT
    info = b"synqx vault envelope v1\x00" + associated_data
    record_keys, commitments = [], []
    for key in keys:
        pseudorandom_key = hmac.digest(salt, key, hashlib.sha256)
        record_keys.append(hmac.digest(pseudorandom_key, info + b"\x01", hashlib.sha256))
        commitments.append(hmac.digest(pseudorandom_key, record_keys[-1] + info + b"\x02", hashlib.sha256))
    forged = forge_for_two_keys(record_keys[0], record_keys[1], nonce, associated_data)
    plaintexts = [AESGCM(key).decrypt(nonce, forged, associated_data) for key in record_keys]  # AES-GCM is fooled
    assert plaintexts[0] != plaintexts[1]
    for own, other in ((0, 1), (1, 0)):
        envelope = header + commitments[own] + forged
        assert open_(envelope, key=keys[own]) == plaintexts[own]
        with pytest.raises(IntegrityError):
            open_(envelope, key=keys[other])


def test_the_forgery_is_no_accident() -> None:
    nonce = bytes(12)
    forged = forge_for_two_keys(bytes(32), bytes([1]) * 32, nonce, b"data")
    with pytest.raises(InvalidTag):
        AESGCM(bytes([2]) * 32).decrypt(nonce, forged, b"data")


# --- padding -----------------------------------------------------------------------------------------------


@given(st.text(max_size=200).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)))
@settings(max_examples=100)
def test_padding_comes_off_again(text: str) -> None:
    padded = encode_secret(text)
    assert len(padded) % 64 == 0
    assert decode_secret(padded) == text


@pytest.mark.parametrize("text", ["", "\x00", "\x00\x00", "\x80", "a\x80\x00", "x" * 63, "x" * 64, "\n"])
def test_padding_keeps_texts_that_look_like_padding(text: str) -> None:
    assert decode_secret(encode_secret(text)) == text


def test_the_length_of_a_password_does_not_show() -> None:
    assert len({len(seal(encode_secret("x" * length))) for length in range(64)}) == 1


@pytest.mark.parametrize("padded", [b"", b"\x00" * 64, b"text", b"\xff\x80"])
def test_bytes_that_are_no_padded_text_are_refused(padded: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_secret(padded)


@pytest.mark.parametrize("text", ["geheim\udc80", "x" * (1024 * 1024 + 1)])
def test_unusable_secrets_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        encode_secret(text)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
