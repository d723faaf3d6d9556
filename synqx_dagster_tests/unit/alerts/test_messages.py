"""What an alert says, as JSON, in Slack and as a mail."""

from __future__ import annotations

import hashlib
import hmac
import json

from synqx_dagster.alerts.messages import (
    AlertEvent,
    Trouble,
    Untold,
    encode_payload,
    mail_of,
    payload_of,
    sign,
    slack_payload_of,
    text_of,
)

EVENT = AlertEvent(
    "run_failure:1",
    "run_failure",
    "2026-01-01T00:00:00+00:00",
    subject="nightly",
    summary="nightly failed in a & <b>",
    run_id="0123456789abcdef",
    mappings=("a",),
    troubles=(Trouble("a", "column 'x' is missing", "SourceChangedError"),),
)


def test_a_webhook_gets_everything_as_plain_values() -> None:
    payload = json.loads(encode_payload(payload_of("on_call", EVENT, Untold({"recovery": 2}, {}))))
    assert payload["alert"] == "on_call"
    assert payload["event"] == "run_failure"
    assert payload["event_id"] == "run_failure:1"
    assert payload["run_id"] == "0123456789abcdef"
    assert payload["troubles"] == [{"name": "a", "message": "column 'x' is missing", "error": "SourceChangedError"}]
    assert payload["suppressed"] == {"recovery": 2}


def test_a_signature_is_what_a_receiver_computes() -> None:
    body = encode_payload(payload_of("on_call", EVENT, Untold()))
    expected = hmac.new(b"key", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert sign("key", "1700000000", body) == expected
    assert sign("key", "1700000001", body) != expected


def test_nothing_is_markup_in_slack() -> None:
    text = slack_payload_of("on_call", EVENT, Untold())["text"]
    assert "a &amp; &lt;b&gt;" in text
    assert "synqx logs 01234567" in text


def test_what_was_not_told_is_said() -> None:
    text = text_of("on_call", EVENT, Untold({"recovery": 2}, {"run_failure": 1}))
    assert "2 recovery not sent since the last message: more than max_per_hour" in text
    assert "1 run_failure could not be delivered" in text


def test_a_mail_has_no_header_of_somebody_elses() -> None:
    event = AlertEvent("e\r\nX: y", "run_failure", "t", subject="a\r\nBcc: evil@example.com", summary="ümlaut")
    mail = mail_of("on_call", event, Untold(), sender="synqx@example.com", recipients=("a@example.com",))
    raw = bytes(mail)
    headers = raw.partition(b"\r\n\r\n")[0].decode()
    assert not any(line.lower().startswith(("bcc:", "x:")) for line in headers.splitlines())
    assert mail["To"] == "a@example.com"
    assert "ümlaut" in mail.get_content()


def test_an_event_sent_twice_is_known_as_one_mail() -> None:
    first, second = (mail_of("a", EVENT, Untold(), sender="s@example.com", recipients=("r@e.com",)) for _ in range(2))
    other = mail_of("b", EVENT, Untold(), sender="s@example.com", recipients=("r@e.com",))
    assert first["Message-ID"] == second["Message-ID"] != other["Message-ID"]


def test_what_is_kept_of_an_event_is_bounded() -> None:
    event = AlertEvent("e", "run_failure", "t", "s", "s", troubles=tuple(Trouble("a", "x" * 5000) for _ in range(40)))
    assert len(json.dumps(event.to_dict())) < 25_000
    assert len(text_of("a", event, Untold())) < 25_000
    assert "- and 20 more" in text_of("a", event, Untold())
    assert payload_of("a", event, Untold())["more_troubles"] == 20
    assert AlertEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event
