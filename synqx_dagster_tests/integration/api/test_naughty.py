"""Texts and bodies that break careless servers: kept exactly, or refused with a problem and nothing stored."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest

from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api

#: In the manner of minimaxir/big-list-of-naughty-strings: one or two of each of its sections.
NAUGHTY = [
    "undefined",
    "null",
    "NULL",
    "(null)",
    "None",
    "true",
    "0",
    "-1",
    "1E+02",
    "0x0",
    "NaN",
    "Infinity",
    "1.0/0.0",
    "999999999999999999999999999999",
    ",./;'[]\\-=",
    '<>?:"{}|_+',
    "!@#$%^&*()`~",
    "\x01\x02\x07\x1b[31m\x7f",
    "\t\u000b\f\u0085\u1680\u2028\u2029\u3000",
    "\ufeff\u200b\u2060",
    "\ufffe\uffff",
    "Ω≈ç√∫˜µ≤≥÷",
    "ЁЂЃЄЅІЇЈЉЊЋЌЍЎЏ",
    "⁰⁴⁵₀₁₂",
    "田中さんにあげて下さい",
    "社會科學院語學研究所",
    "(｡◕ ∀ ◕｡)",
    "😍👩🏽🏳0️⃣🇺🇸🇷🇺",
    "١٢٣",
    "הָיְתָהtestالصفحات التّحول",
    "\u202atest\u202c \u2066test\u2069",
    "Ṱ̺̺̕o͞ ̷i̲̬͇̪͙n̝̗͕v̟̜̘̦͟o̶̙̰̠kè͚̮̺̪̹̱̤",
    "˙ɐnbᴉlɐ ɐuƃɐɯ",
    "𝕋𝕙𝕖 𝐪𝐮𝐢𝐜𝐤",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1);",
    "1;DROP TABLE synqx_record",
    "1'; DROP TABLE synqx_record-- 1",
    "' OR 1=1 -- 1",
    "%' ESCAPE '\\",
    "$HOME",
    "$(touch /tmp/blns.fail)",
    "`touch /tmp/blns.fail`",
    "{0}%s%d%n{{7*7}}${7*7}#{7*7}",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>",
    "../../../../etc/passwd%00",
    "..%2f..%2fetc/passwd",
    "CON",
    "Scunthorpe General Hospital",
    "Power لُلُصّبُلُلصّبُررً ॣ ॣh ॣ ॣ 冗",
    "\r\nX-Injected: yes\r\n\r\n",
    "=cmd|' /C calc'!A0",
    "a" * 4000,
    "é".encode().decode("latin-1"),
    "A\u0300",
]

#: Each with what it answers at most; none stores anything.
HOSTILE = [
    b'{"name": "x", "db_type": "sqlite", "database": "/tmp/x", "description": "\\ud800"}',
    b'{"name": "x\\u0000", "db_type": "sqlite", "database": "/tmp/x"}',
    b'{"name": "x", "db_type": "sqlite", "database": "/tmp/x", "pool": {"timeout_seconds": 1e999}}',
    b'{"name": "x", "db_type": "sqlite", "database": "/tmp/x", "pool": {"timeout_seconds": NaN}}',
    b'{"name": "x", "name": "y", "db_type": "sqlite", "database": "/tmp/x"}',
    b'{"name": "x", "db_type": "sqlite", "database": "/tmp/x", "port": ' + b"9" * 5000 + b"}",
    b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}",
    b"[" * 100_000,
    b'{"name": "' + b"x" * (20 * 1024 * 1024) + b'"}',
    b"\xff\xfe{}",
    b"",
    b"{",
]


def is_problem(answer: httpx.Response) -> bool:
    document = answer.json()
    return (
        400 <= answer.status_code < 500
        and answer.headers["Content-Type"] == "application/problem+json"
        and document["status"] == answer.status_code
        and bool(document["detail"])
    )


@pytest.mark.parametrize("any_catalog_settings", ["postgresql"], indirect=True)
def test_a_naughty_text_is_kept_as_it_is_or_refused(api: Api) -> None:
    editor = api.client(Role.EDITOR)
    kept = 0
    for index, text in enumerate(NAUGHTY):
        file = {"db_type": "sqlite", "database": "/tmp/x.db"}
        described = editor.post("/connections", json={"name": f"d{index}", **file, "description": text})
        assert described.status_code == 201, described.text
        assert editor.get(f"/connections/d{index}").json()["description"] == text
        assert "X-Injected" not in described.headers
        named = editor.post("/connections", json={**file, "name": text})
        if named.status_code == 201:
            kept += 1
            assert named.json()["name"] == text
            found = editor.get("/connections", params={"name": text}).json()
            assert text in [item["name"] for item in found["items"]]
            if not text.isdecimal() and "/" not in text:
                assert editor.get(f"/connections/{quote(text, safe='')}").json()["name"] == text
            assert editor.delete(f"/connections/{named.json()['id']}").status_code == 204
        else:
            assert is_problem(named), named.text
        assert editor.get("/connections", params={"name": text[:100], "host": text[:100]}).status_code == 200
        answer = editor.put(f"/connections/d{index}", json={"name": f"d{index}", **file, text: 1})
        assert is_problem(answer), answer.text
    assert kept > 10
    assert editor.get("/connections", params={"limit": 1}).json()["total"] == len(NAUGHTY)


@pytest.mark.parametrize("any_catalog_settings", ["postgresql"], indirect=True)
def test_a_hostile_body_stores_nothing(api: Api) -> None:
    editor = api.client(Role.EDITOR)
    before = api.context.catalog.latest_revision()
    made = {"name": "there", "db_type": "sqlite", "database": "/tmp/x.db"}
    for body in HOSTILE:
        for method, path in (("POST", "/connections"), ("PUT", "/connections/there"), ("POST", "/connections/test")):
            answer = editor.request(method, path, content=body, headers={"Content-Type": "application/json"})
            assert is_problem(answer), (body[:100], answer.text)
    plain = editor.post("/connections", content=json.dumps(made), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    form = editor.post("/connections", data=made)
    assert form.status_code == 415
    for path in ("/connections/%00", "/connections/%ff", "/connections/%ed%a0%80", "/connections?name=%00"):
        answer = editor.get(path)
        assert (answer.status_code, is_problem(answer)) == (400, True)
    assert api.context.catalog.latest_revision() == before
    assert editor.get("/connections").json()["total"] == 0
