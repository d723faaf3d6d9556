"""The formats of version 1: what this fixed vault holds must open in every later version."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import SecretStr

from synqx_dagster.vault import SecretAddress, Vault
from synqx_dagster_tests.unit.vault.memory_storage import PASSWORD, WEAK, MemoryStorage

RECOVERY = "6K7A-FGR8-ED8D-7QYN-MECV-B9QT-1XKP-N97A"
KEY_FILE = "SYNQX-KEY-1 e837aa35babab33c9bb4c77557bd646cc016830701d26eb4035f7182c1103d40\n"
STATE = (
    '{"active_generation":2,"data_keys":[{"created_at":"2026-11-21T01:19:38.073+00:00","generation":1,"re'
    'tired_at":"2026-11-21T01:19:38.107+00:00","wrapped":"U1hFAQIAAAAACm7ymSjZhAZ26ztj+lb6MUrXKBQ2tt+0PoE'
    "tCKDizenoH81INoVNwFvrUc/i/vcjcNiaMpbilC0xH4/5BhsAwSxZ+zRLV01cEXCYg8rFykH5Wwnc3OZgsB/xyCyGH3yGJW2m8s+"
    '6erOAvRPmYBIDvv3cS+Dxwe8VqivoIg=="},{"created_at":"2026-11-21T01:19:38.106+00:00","generation":2,"re'
    'tired_at":null,"wrapped":"U1hFAQIAAAAAWV4WbxutQ3DOMoLIt5WSAoxadcBqw6t8ykWVmA6NqR5ZIuPix0WIWwzYf0iADK'
    "vzyLuZkAgwXy1qzCPSr4Dw8C0m35eizurZMouxoLq3CdbqIVQj4DmAtOeKsFxHqFCYY6HHt55Ivnp8ZRNF1FYGqI9kF5coXwDfH2"
    '3Fdw=="}],"failures":0,"format":1,"keyslots":[{"created_at":"2026-11-21T01:19:38.073+00:00","id":"05'
    '9c4cf6","kdf":{"algorithm":"argon2id","iterations":1,"lanes":1,"memory_kib":8,"salt":"WfDBPJHkBgI9hs'
    'ooTv6e3Q=="},"kind":"password","wrapped":"U1hFAQMAAAAAXtIbphxR7h406cUy4ATUZ3ZYIHDAqLN8xQvYSSOjtNdm4i'
    "waaSmZk3CQi1wn+3Qws9VdSw2Ix03Rv9NgCELXGgPDWTS1xUpph99sXQoexLlF3yDht2yfc7UdZ3VjdvYpaNGDgGxIfZn6YpLWx/"
    'Brs9gpn1kNadhOOHm9Cg=="},{"created_at":"2026-11-21T01:19:38.103+00:00","id":"051040df","kdf":{"algor'
    'ithm":"argon2id","iterations":1,"lanes":1,"memory_kib":8,"salt":"WTvsDbVl5PwT8Sr2uYa+mw=="},"kind":"'
    'recovery","wrapped":"U1hFAQMAAAAAfixg5WGKQR1SV7nQWmeRhBco9MzamzvIr85UAGD+Szb1PAe8aMSJxFqmKI+t88Ykgku'
    "Bo2zZ4vBhj1cg3FffO8vSSJ59atDixIh4iuklg/Qk9LM3yX6lrbgYBtxkwl5pSB0YvlmuCaOwm1fCwsZjaz6Lec4Un21Vswv/ZQ="
    '="},{"created_at":"2026-11-21T01:19:38.105+00:00","id":"d2f910b3","kdf":null,"kind":"key_file","wrap'
    'ped":"U1hFAQMAAAAAP2yNl0KyjsPok0xPGrTSELCJUlRC/UX1QcwPG1KXyHE7CkrzfKKLeYW/IE9EG2WEc1vRls+JgFSav0byrF'
    'WJbRtVXTiNkbm1NtKYUyJcURK2ePc4dMcCLH8l8YZZJZTYva6KWKOg6YVY5gc5fomoQCF7t3OYXlxPBse44A=="}],"last_fail'
    'ure_at":null,"mac":"qcaufR0+QJCvYAybJ/3xmo4Eon8Nl4Jl+Giue90EM8M=","rotating":false,"seal_epoch":0,"s'
    'ealed_by_operator":false,"serial":5,"vault_id":"ec5365688c2c7870820c000ae829de4d"}'
)
FIRST = (
    "U1hFAQEAAAABBr89bFsL0gjDVPQHK+plsW6IHsYPJw1P/iKCGJ4NdczbqCCpzZkPaMIOdAQFmLZKgx3KZEWrJxD/hq3ySoy+EXB/"
    "Hw693TUcQhrPjcokXYwtJCxCgocCbObAifH6uG9drDiSKZXCb4w2/DxKMnXBM7aSPFSeHGrpk3Wn1A+k6/bR6LPK2OKJZZtR1rKK"
    "Rb2lOMNTGFd4u2AroD5A"
)
SECOND = (
    "U1hFAQEAAAACxw0tPd5NWiDDpxGjGQpmgCZ0QbJxsAop76jtn/qI1AykxJ25wEnLw1+liVtpjyDEfaNuOekA2wKHhqPFZlw/5eKL"
    "PmVsZK0N7EQ1AfZ+Fcptuoq0hFpCyJpNJJhb0cnC2GaPZyA+Gcv26s11SyG6mM8H1suBwrcsFEmTaHEo4FENlG6rSaxxA6jNxCsY"
    "B0qsnyoVEw5tSaqsYs7N"
)


@pytest.mark.parametrize("kind", ["password", "recovery", "key_file"])
def test_a_vault_of_version_1_opens(kind: str, tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.text = STATE
    vault = Vault(storage, policy=WEAK)
    match kind:
        case "password":
            vault.unseal(password=PASSWORD)
        case "recovery":
            vault.unseal(recovery=SecretStr(RECOVERY))
        case _:
            path = tmp_path / "vault.key"
            path.write_text(KEY_FILE)
            path.chmod(0o600)
            vault.unseal(key_file=path)
    first = vault.open_secret(SecretAddress("synqx_secret", 7, "password", 3), base64.b64decode(FIRST))
    second = vault.open_secret(SecretAddress("synqx_secret", 7, "password", 4), base64.b64decode(SECOND))
    assert (first, second) == ("pässwörd \U0001f511", "")
    assert storage.text == STATE
