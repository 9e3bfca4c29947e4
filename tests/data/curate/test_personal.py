"""Personal data in text: what is found, and what only looks like it."""

from random import Random

import phonenumbers
import pytest
import steprun
from curate import personal
from curate.personal import ADDRESS, EMAIL, PAYMENT, TELEPHONE
from curate.pii import PersonalData
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from planted_pii import decoy, planted
from seeds import seed_of
from steprun import document

KIND = {"email": EMAIL, "telephone": TELEPHONE, "ip": ADDRESS, "payment": PAYMENT, "iban": PAYMENT}


def found(text, language="en", **more):
    return [(text[each.start : each.end], each.kind) for each in personal.find(text, language=language, **more)]


def test_planted_data():
    random, missed, false = Random(seed_of("planted")), [], []
    for _ in range(1500):
        kind, text, sentence = planted(random)
        missed += [] if found(sentence) == [(text.removeprefix("mailto:"), KIND[kind])] else [sentence]
        _, sentence = decoy(random)
        false += [sentence] if found(sentence) else []
    assert len(missed) <= 0.02 * 1500, missed[:10]
    assert len(false) <= 0.01 * 1500, false[:10]


@pytest.mark.parametrize("style", ["INTERNATIONAL", "NATIONAL", "E164"])
def test_examples_of_telephone_numbers(style):
    """phonenumbers has an example of each kind for each country."""
    missed, total = [], 0
    for language, regions in personal.REGIONS.items():
        for region in regions:
            for kind in (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE):
                if number := phonenumbers.example_number_for_type(region, kind):
                    text = phonenumbers.format_number(number, getattr(PhoneNumberFormat, style))
                    for sentence in (f"The office has {text} for now.", f"Tel. {text}"):
                        total += 1
                        missed += [] if found(sentence, language) == [(text, TELEPHONE)] else [sentence]
    assert total > 150 and len(missed) <= 0.05 * total, missed


@pytest.mark.parametrize("text, kind", [
    ("jane [at] firm [dot] org", EMAIL), ("Jane_O.Hara+x@a-b.co.uk", EMAIL), ("müller@straße.de", EMAIL),
    ("4111 1111 1111 1111", PAYMENT), ("3782 822463 10005", PAYMENT), ("ES91 2100 0418 4502 0005 1332", PAYMENT),
    ("DE89 3704 0044 0532 0130 00", PAYMENT), ("2a02:8109:9c40:1b8c::5", ADDRESS), ("81.23.44.190", ADDRESS),
    ("(212) 555-0187", TELEPHONE), ("1-800-555-0199", TELEPHONE), ("020 7946 0958", TELEPHONE),
])  # fmt: skip
@pytest.mark.parametrize("frame", ["{}", "Write to {} AND wait.", "<{}>", "({}),", "one\n{}\ntwo", "it is {}."])
def test_personal_data_are_found(text, kind, frame):
    assert found(frame.format(text)) == [(text, kind)]


@pytest.mark.parametrize("text", [
    "version 5.10.0.127", "kernel: 5.10.44.127", "foo-11.22.33.44", "4.2.1.1 Title", "libXt (>= 1:1.0.99.1)", "255.255.255.0",
    "192.168.1.20", "127.0.0.1", "10.20.30.40", "203.0.113.9", "81.23.44.0/24", "44.23.81.in-addr.arpa", "2001:db8::1", "fe80::1", "::1",
    "std::vector::iterator", "00:1B:44:11:3A:B7", "12:30:45.123456", "2023-11-05", "05/11/2023", "2023-11-05 12:30:45", "1,234,567,890",
    "978-3-16-148410-0", "0-306-40615-2", "3.14159265358979", "'-3.14159265359'", "0x7fffdeadbeef", "x = 2125550187", "id 20231105123045",
    "1700000000000", "pages 1234-5678", "252.227-7013", "1 2 3 4 5 6 7 8 9 10", "20 30 40 50", "1990-2000", "2019 2023", "1990-2000 2001-2010", "1024 2048 4096 8192",
    "@property.setter", "a@b", "4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "12345678901234567890",
])  # fmt: skip
@pytest.mark.parametrize("language", ["en", "de", "da"])
def test_what_only_looks_like_it_stays(text, language):
    assert found(f"See {text} there.", language) == [] == found(text, language)


def test_words_that_announce_a_number():
    assert found("Call us at 555 123 4567.") == [("555 123 4567", TELEPHONE)] and found("We sold 555 123 4567.") == []


def test_placeholders(tmp_path):
    text = "Ask jane@firm.org or +49 30 901820, card 4111111111111111, from 81.23.44.190.\nNothing else."
    plain = document(text, 0, language="en")
    kept, counts = steprun.run(PersonalData, [[plain, document("Nothing", 1)]], tmp_path)
    assert kept[0][0].text == ("Ask [e-mail address] or [telephone number], card [payment number], from [IP address].\nNothing else.")
    assert (counts.changes, counts.changed) == (4, 1) and counts.counters == {f"kind/{kind}": 1 for kind in personal.KINDS}


def test_settings(tmp_path):
    text = "Ask jane@firm.org or joe@firm.org, 089 1234567."
    kept, counts = steprun.run(PersonalData, [[document(text, 0), document("joe@firm.org", 1)]], tmp_path, most=1)
    assert [each.id for each in kept[0]] == ["id1"] and counts.reasons == {"too much personal data": 1}
    kept, _ = steprun.run(PersonalData, [[document(text, 0)]], tmp_path, kinds=[TELEPHONE], regions=["DE"])
    assert kept[0][0].text == "Ask jane@firm.org or joe@firm.org, [telephone number]."
