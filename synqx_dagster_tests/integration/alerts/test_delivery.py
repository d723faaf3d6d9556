"""One attempt to tell an event, at real servers: what arrives, and what is said when nothing does."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from synqx_dagster.alerts.delivery import deliver
from synqx_dagster.alerts.messages import AlertEvent, Untold, sign
from synqx_dagster.catalog.validation import build_record
from synqx_dagster.errors import AlertDeliveryError, ConfigurationError, HostRefusedError, SynqxError
from synqx_dagster.model import Alert, HostPolicy

EVENT = AlertEvent("run_failure:1", "run_failure", "2026-01-01T00:00:00+00:00", "nightly", "nightly failed")
SECRETS = {"webhook.signing_key": "canary-key", "email.password": "canary-password"}


def alert(**channel: Any) -> Alert:
    record = build_record("alert", {"name": "on_call", "events": ["run_failure"], **channel})
    assert isinstance(record, Alert)
    return record


def tell(record: Alert, url: str = "", policy: HostPolicy | None = None) -> None:
    """Deliver `EVENT`, with secrets that are resolved to these."""
    secrets = {**SECRETS, "webhook.url": url, "slack.url": url}
    get: Callable[[str], str | None] = secrets.get
    if record.webhook is not None and record.webhook.signing_key is None:
        secrets["webhook.signing_key"] = None  # type: ignore[assignment]
    deliver(record, EVENT, Untold({"recovery": 2}), get, host_policy=policy or HostPolicy(), timeout_seconds=5)


def refusal(record: Alert, url: str = "", policy: HostPolicy | None = None) -> SynqxError:
    """What is said; never a canary."""
    with pytest.raises(SynqxError) as caught:
        tell(record, url, policy)
    error = caught.value
    assert "canary" not in f"{error} {error.context} {error.__cause__!r}"
    assert error.__suppress_context__ or error.__context__ is None
    return error


HOOK = {"webhook": {"url": {"env": "HOOK"}}}


# --- webhooks -----------------------------------------------------------------------------------------------------


def test_a_webhook_is_called_with_a_signed_document(web_receiver):
    record = alert(webhook={"url": {"env": "HOOK"}, "signing_key": {"env": "KEY"}})
    tell(record, web_receiver.url("/hook/canary-token?x=1"))
    (call,) = web_receiver.received
    assert call.path == "/hook/canary-token?x=1"
    assert call.headers["X-SynqX-Event-Id"] == "run_failure:1"
    assert (
        call.headers["X-SynqX-Signature"]
        == f"sha256={sign('canary-key', call.headers['X-SynqX-Timestamp'], call.body)}"
    )
    document = json.loads(call.body)
    assert (document["alert"], document["subject"]) == ("on_call", "nightly")
    assert document["suppressed"] == {"recovery": 2}
    assert b"canary" not in call.body


def test_without_a_key_nothing_is_signed(web_receiver):
    tell(alert(**HOOK), web_receiver.url())
    assert "X-SynqX-Signature" not in web_receiver.received[0].headers


def test_slack_gets_its_own_form(web_receiver):
    tell(alert(slack={"url": {"env": "HOOK"}}), web_receiver.url())
    document = json.loads(web_receiver.received[0].body)
    assert set(document) == {"text"}
    assert "nightly failed" in document["text"]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_answer_that_is_no_yes_is_an_error_with_its_status(web_receiver, status):
    web_receiver.answers = [status]
    error = refusal(alert(**HOOK), web_receiver.url())
    assert isinstance(error, AlertDeliveryError)
    assert error.context["status"] == status


def test_a_redirect_is_not_followed(web_receiver):
    web_receiver.answers = [302]
    assert "a redirect is not followed" in str(refusal(alert(**HOOK), web_receiver.url()))
    assert len(web_receiver.received) == 1


def test_a_server_that_is_down_is_named_and_its_url_is_not():
    error = refusal(alert(**HOOK), "http://127.0.0.1:1/canary-token")
    assert "the webhook at 127.0.0.1 was not reached: it refused the connection" in str(error)


def test_a_server_that_says_nothing_is_left_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        secrets = {"webhook.url": f"http://127.0.0.1:{silent.getsockname()[1]}/canary"}
        with pytest.raises(AlertDeliveryError, match="did not answer in time"):
            deliver(alert(**HOOK), EVENT, Untold(), secrets.get, host_policy=HostPolicy(), timeout_seconds=0.3)


def test_a_server_that_never_comes_to_an_end_is_cut_off():
    with socket.socket() as endless, contextlib.ExitStack() as stack:
        endless.bind(("127.0.0.1", 0))
        endless.listen()
        over = threading.Event()
        stack.callback(over.set)

        def drip() -> None:
            with contextlib.suppress(OSError):
                stream, _ = endless.accept()
                with stream:
                    while not over.wait(0.05):
                        stream.sendall(b"H")

        threading.Thread(target=drip, daemon=True).start()
        secrets = {"webhook.url": f"http://127.0.0.1:{endless.getsockname()[1]}/canary"}
        with pytest.raises(AlertDeliveryError, match="was not reached"):
            deliver(alert(**HOOK), EVENT, Untold(), secrets.get, host_policy=HostPolicy(), timeout_seconds=0.5)


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data/canary",
        "https://[fd00:ec2::254]/canary",
        "https://[::ffff:169.254.169.254]/canary",
        "https://metadata.google.internal/canary",
        "https://0.0.0.0/canary",
    ],
)
def test_metadata_services_are_never_called(url):
    error = refusal(alert(**HOOK), url)
    assert isinstance(error, HostRefusedError)
    assert str(error).startswith("alert 'on_call': ")


def test_the_operators_lists_hold_for_webhooks(web_receiver):
    for policy in (HostPolicy.parse(None, "127.0.0.0/8"), HostPolicy.parse("hooks.example.com", None)):
        assert isinstance(refusal(alert(**HOOK), web_receiver.url(), policy), HostRefusedError)
    assert web_receiver.received == []
    tell(alert(**HOOK), web_receiver.url(), HostPolicy.parse("127.0.0.1", None))
    assert len(web_receiver.received) == 1


def test_a_url_that_came_from_the_environment_is_checked_too():
    error = refusal(alert(**HOOK), "http://hooks.example.com/canary")
    assert isinstance(error, ConfigurationError)
    assert "plain http is for this machine only" in str(error)


def test_tls_is_verified(tls_receiver, authority):
    assert "its certificate is not trusted" in str(refusal(alert(**HOOK), tls_receiver.url()))
    tell(alert(webhook={"url": {"env": "HOOK"}, "ca_file": str(authority.file)}), tls_receiver.url())
    assert len(tls_receiver.received) == 1


def test_a_file_of_authorities_that_is_none(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("canary")
    error = refusal(alert(webhook={"url": {"env": "HOOK"}, "ca_file": str(file)}), "https://127.0.0.1:1/x")
    assert "cannot be read as certificates" in str(error)


# --- mail ---------------------------------------------------------------------------------------------------------


def mail_alert(port: int, **values: Any) -> Alert:
    defaults = {
        "host": "127.0.0.1",
        "port": port,
        "sender": "synqx@example.com",
        "recipients": ["a@example.com", "b@example.com"],
    }
    return alert(email={**defaults, **values})


def test_a_mail_arrives_after_starttls_and_a_login(mail_receiver, authority):
    record = mail_alert(mail_receiver.port, username="synqx", password={"env": "MAIL"}, ca_file=str(authority.file))
    tell(record)
    (envelope,) = mail_receiver.mails
    assert mail_receiver.logins == ["synqx"]
    assert (envelope.mail_from, envelope.rcpt_tos) == ("synqx@example.com", ["a@example.com", "b@example.com"])
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert message["Subject"] == "[SynqX] nightly failed"
    assert message["X-SynqX-Event-Id"] == "run_failure:1"
    assert "2 recovery not sent" in message.get_content()
    assert b"canary" not in envelope.content


def test_a_mail_arrives_over_tls_from_the_first_byte(implicit_mail_receiver, authority):
    tell(mail_alert(implicit_mail_receiver.port, tls="implicit", ca_file=str(authority.file)))
    assert len(implicit_mail_receiver.mails) == 1


def test_a_mail_server_on_this_machine_needs_no_tls(plain_mail_receiver):
    tell(mail_alert(plain_mail_receiver.port, tls="none"))
    assert len(plain_mail_receiver.mails) == 1


def test_nothing_goes_out_in_the_clear_where_tls_was_asked_for(plain_mail_receiver):
    assert "it lacks what the alert asks for" in str(refusal(mail_alert(plain_mail_receiver.port)))
    assert plain_mail_receiver.mails == []


def test_a_mail_server_is_verified(mail_receiver):
    assert "its certificate is not trusted" in str(refusal(mail_alert(mail_receiver.port)))
    assert mail_receiver.mails == []


def test_a_wrong_password_is_said_and_not_shown(mail_receiver, authority, monkeypatch):
    monkeypatch.setitem(SECRETS, "email.password", "canary-wrong")
    record = mail_alert(mail_receiver.port, username="synqx", password={"env": "MAIL"}, ca_file=str(authority.file))
    assert "it refused the user name or the password" in str(refusal(record))


def test_recipients_that_are_refused(plain_mail_receiver):
    plain_mail_receiver.refused = {"b@example.com"}
    error = refusal(mail_alert(plain_mail_receiver.port, tls="none"))
    assert "refused 1 of the recipients" in str(error)
    assert error.context["delivered"] is True
    plain_mail_receiver.refused = {"a@example.com", "b@example.com"}
    assert "it refused every recipient" in str(refusal(mail_alert(plain_mail_receiver.port, tls="none")))


def test_a_mail_that_was_taken_is_delivered_however_the_server_says_goodbye(plain_mail_receiver):
    plain_mail_receiver.farewell = "421 canary-answer"
    tell(mail_alert(plain_mail_receiver.port, tls="none"))
    assert len(plain_mail_receiver.mails) == 1


def test_the_operators_lists_hold_for_mail_servers(plain_mail_receiver):
    policy = HostPolicy.parse(None, "127.0.0.1")
    error = refusal(mail_alert(plain_mail_receiver.port, tls="none"), policy=policy)
    assert isinstance(error, HostRefusedError)
