"""Reads the sample notifications of test_mail_dsn with Python's email parser: argument 1 is that program."""
import email
import email.policy
import subprocess
import sys


def sample(name):
    text = subprocess.run([sys.argv[1], name], check=True, stdout=subprocess.PIPE).stdout
    message = email.message_from_bytes(text, policy=email.policy.default)
    everything = list(message.walk())
    assert not [defect for part in everything for defect in part.defects], name
    assert message.get_content_type() == "multipart/report"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert message["Date"].datetime.year == 2026
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@mx.here.example"
    parts = list(message.iter_parts())
    assert len(parts) == 3, (name, len(parts))
    assert parts[0].get_content_type() == "text/plain"
    return message, parts


def status_groups(part):
    return [dict(group.items()) for group in part.get_payload()]


message, parts = sample("failed")
assert message["To"].addresses[0].addr_spec == "sender@from.example"
assert message["In-Reply-To"] == "<abc@from.example>"
assert message.get_param("report-type") == "delivery-status"
assert parts[1].get_content_type() == "message/delivery-status"
groups = status_groups(parts[1])
assert len(groups) == 3, groups
assert groups[0]["Reporting-MTA"] == "dns; mx.here.example"
assert groups[0]["Original-Envelope-Id"] == "QQ314159"
assert groups[0]["Arrival-Date"] == "Tue, 24 Nov 2026 09:26:53 +0000"
assert groups[1]["Original-Recipient"] == "rfc822;alias@here.example"
assert groups[1]["Final-Recipient"] == "rfc822; nobody@dest.example"
assert groups[1]["Action"] == "failed" and groups[1]["Status"] == "5.1.1"
assert groups[1]["Remote-MTA"] == "dns; mx.dest.example"
diagnostic = " ".join(groups[1]["Diagnostic-Code"].split())
assert diagnostic.startswith("smtp; 550-5.1.1 The account"), diagnostic
assert diagnostic.endswith("550 5.1.1 Good bye"), diagnostic
assert groups[2]["Action"] == "delayed" and groups[2]["Status"] == "4.0.0"
assert parts[2].get_content_type() == "message/rfc822"
assert parts[2].get_content()["Subject"] == "hi"
assert parts[2].get_content().get_content().split() == ["body"]
assert "nobody@dest.example" in parts[0].get_content()
assert "remote.refused" in parts[0].get_content()

message, parts = sample("hostile")
groups = status_groups(parts[1])
assert len(groups) == 2, groups
assert groups[1]["Action"] == "failed" and groups[1]["Status"] == "5.0.0"

message, parts = sample("utf8")
assert message.get_param("report-type") == "global-delivery-status"
assert parts[1].get_content_type() == "message/global-delivery-status"
assert parts[2].get_content_type() == "message/global-headers"
print("three notifications read back by Python's email package")
