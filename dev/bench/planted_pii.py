"""Personal data at random that look real, and numbers that only look like personal data."""

from random import Random

from planted_text import LISTS


def digits(random: Random, count: int) -> str:
    return "".join(random.choice("0123456789") for _ in range(count))


def luhn_digit(number: str) -> int:
    """The last digit of a payment number, which makes its sum of digits, every second one doubled, divisible by ten."""
    doubled = (sum(divmod(2 * int(digit), 10)) if place % 2 == 0 else int(digit) for place, digit in enumerate(reversed(number)))
    return -sum(doubled) % 10


def payment(random: Random) -> str:
    first = random.choice(["4", "51", "37"])
    number = first + digits(random, (14 if first == "37" else 15) - len(first))
    number += str(luhn_digit(number))
    mark = random.choice(["", " ", "-"])
    ends = (4, 10) if first == "37" else (4, 8, 12)
    return mark.join(number[start:end] for start, end in zip((0, *ends), (*ends, None)))


def iban(random: Random) -> str:
    """Germany's: country, two check digits, eighteen digits; with D = 13 and E = 14 at the end, 1 modulo 97."""
    account = digits(random, 18)
    whole = f"DE{98 - int(account + '131400') % 97:02}{account}"
    return " ".join(whole[start : start + 4] for start in range(0, 22, 4)) if random.random() < 0.5 else whole


def email(random: Random) -> str:
    name, family, host = (random.choice(LISTS["thing"]) for _ in range(3))
    name = random.choice(["{0}.{1}", "{0}_{1}", "{0}+{1}", "{0}{1}7"]).format(name, family)
    return f"{random.choice([name, name.title()])}@{random.choice(['', 'mail.'])}{host}-post.{random.choice(['com', 'org', 'de', 'co.uk'])}"


def telephone(random: Random) -> str:
    one, two = random.randint(2, 9), digits(random, 6)
    return random.choice([f"+49 30 {one}{two[:5]}", f"+49-89-{one}{two}", f"+33 1 4{one} {two[:2]} {two[2:4]} {two[4:]}",
                          f"+44 20 7{one}{two[:2]} {digits(random, 4)}", f"+34 91 {one}{two[:2]} {two[2:4]} {two[4:]}",
                          f"(212) 7{one}6-{two[:4]}", f"+1 617-{one}53-{two[:4]}"])  # fmt: skip


def ip(random: Random) -> str:
    if random.random() < 0.3:
        return f"2a01:4f8:{random.randint(0x100, 0xFFFF):x}:{random.randint(0x100, 0xFFFF):x}::{random.randint(1, 0xFF):x}"
    return f"{random.choice([81, 84, 93, 151, 185, 213])}." + ".".join(str(random.randint(1, 254)) for _ in range(3))


KINDS = {"email": email, "telephone": telephone, "ip": ip, "payment": payment, "iban": iban}
FRAMES = {
    "email": ["Write to {} before Friday.", "The author ({}) answers every letter.", "Contact: {}"],
    "telephone": ["Call {} in the morning.", "Tel.: {}", "The office is open until noon, telephone {}, except on Sundays."],
    "ip": ["The request came from {} at night.", "Blocked address: {}"],
    "payment": ["The card {} was charged twice.", "Paid with {} in May."],
    "iban": ["Please pay to {} within a week.", "IBAN: {}"],
}


def planted(random: Random) -> tuple[str, str, str]:
    """(kind, the personal data, a sentence that has them)."""
    kind = random.choice(list(KINDS))
    text = KINDS[kind](random)
    return kind, text, random.choice(FRAMES[kind]).format(text)


def decoy(random: Random) -> tuple[str, str]:
    """(a number that is nobody's, a sentence that has it)."""
    number = "4" + digits(random, 14)
    wrong = number + str((luhn_digit(number) + random.randint(1, 9)) % 10)
    text, frame = random.choice([
        (f"{random.randint(2, 9)}.{random.randint(0, 20)}.{random.randint(0, 40)}", "It needs version {} of the library."),
        (f"{random.randint(2, 9)}.{random.randint(0, 20)}.{random.randint(0, 40)}.{random.randint(1, 9)}", "It was mended in version {}."),
        (f"20{digits(random, 2)}-0{random.randint(1, 9)}-{random.randint(10, 28)}", "The meeting was on {} as usual."),
        (f"978-3-16-{digits(random, 6)}-{digits(random, 1)}", "The book's ISBN is {}."),
        (wrong, "The order {} was sent."),
        (f"{random.randint(10, 23)}:{random.randint(10, 59)}:{random.randint(10, 59)}", "The train left at {}."),
        (f"{random.randint(1, 9)},{digits(random, 3)},{digits(random, 3)}", "The town has {} people."),
        ("".join(random.choice("0123456789abcdef") for _ in range(40)), "The change is {} in the archive."),
        ("@dataclass", "The decorator {} makes a constructor."),
    ])  # fmt: skip
    return text, frame.format(text)
