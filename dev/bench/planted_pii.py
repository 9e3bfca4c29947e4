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
    """Check digits make account, country (D is 13) and check digits 1 modulo 97."""
    country, length, bank = random.choice([("DE", 18, ""), ("FR", 23, ""), ("GB", 14, "NWBK"), ("NL", 10, "ABNA")])
    account = bank + digits(random, length)
    check = 98 - int("".join(str(int(letter, 36)) for letter in account + country + "00")) % 97
    whole = f"{country}{check:02}{account}"
    return " ".join(whole[start : start + 4] for start in range(0, len(whole), 4)) if random.random() < 0.5 else whole


def email(random: Random) -> str:
    name, family, host = (random.choice(LISTS["thing"]) for _ in range(3))
    name = random.choice(["{0}.{1}", "{0}_{1}", "{0}+{1}", "{0}{1}7", "{0}-{1}"]).format(name, family)
    form = random.choice(["{}@{}", "{}@{}", "{}@{}", "{}@{}", "{} [at] {}", "mailto:{}@{}"])
    return form.format(random.choice([name, name.title()]), f"{random.choice(['', 'mail.'])}{host}-post.{random.choice(['com', 'org', 'de', 'co.uk'])}")


def telephone(random: Random) -> str:
    """International forms, and those of the United States, as everybody who writes English would understand them."""
    one, two = random.randint(2, 9), digits(random, 6)
    return random.choice([f"+49 30 {one}{two[:5]}", f"+49-89-{one}{two}", f"+49 (0)40 {one}{two[:3]} {two[3:]}", f"+4930{one}{two}",
                          f"+33 1 4{one} {two[:2]} {two[2:4]} {two[4:]}", f"+33.1.4{one}.{two[:2]}.{two[2:4]}.{two[4:]}",
                          f"+44 20 7{one}{two[:2]} {digits(random, 4)}", f"+34 91 {one}{two[:2]} {two[2:4]} {two[4:]}",
                          f"(212) 7{one}6-{two[:4]}", f"212-7{one}6-{two[:4]}", f"212.7{one}6.{two[:4]}", f"+1 617-{one}53-{two[:4]}",
                          f"1-617-{one}53-{two[:4]}", f"+1 (617) {one}53 {two[:4]}"])  # fmt: skip


def ip(random: Random) -> str:
    if random.random() < 0.3:
        parts = [f"{random.randint(0x100, 0xFFFF):x}" for _ in range(6)]
        return random.choice(["2a01:4f8:{0}:{1}::{2}", "2001:db9:{0}:{1}:{2}:{3}:{4}:{5}", "2a00:1450:{0}::{1}"]).format(*parts)
    return f"{random.choice([81, 84, 93, 151, 185, 213])}." + ".".join(str(random.randint(1, 254)) for _ in range(3))


KINDS = {"email": email, "telephone": telephone, "ip": ip, "payment": payment, "iban": iban}
FRAMES = {
    "email": ["Write to {} before Friday.", "The author ({}) answers every letter.", "Contact: {}", "<{}> wrote on Monday:"],
    "telephone": ["Call {} in the morning.", "Tel.: {}", "The office is open until noon, telephone {}, except on Sundays.",
                  "Phone/Fax {}.", "Our number is {} (ask for the teacher)."],
    "ip": ["The request came from {} at night.", "Blocked address: {}", "[{}] connected twice."],
    "payment": ["The card {} was charged twice.", "Paid with {} in May.", "Visa/Mastercard: {}."],
    "iban": ["Please pay to {} within a week.", "IBAN: {}", "Account {}, thank you."],
}  # fmt: skip


def planted(random: Random) -> tuple[str, str, str]:
    """(kind, the personal data, a sentence that has them)."""
    kind = random.choice(list(KINDS))
    text = KINDS[kind](random)
    return kind, text, random.choice(FRAMES[kind]).format(text)


def decoy(random: Random) -> tuple[str, str]:
    """(a number that is nobody's, a sentence that has it)."""
    number = "4" + digits(random, 14)
    wrong = number + str((luhn_digit(number) + random.randint(1, 9)) % 10)
    small, large = [random.randint(2, 9) for _ in range(4)], [digits(random, 3) for _ in range(4)]
    text, frame = random.choice([
        ("{}.{}.{}".format(*small), "It needs version {} of the library."),
        ("{}.{}.{}.{}".format(*small), "It was mended in version {}."),
        ("{}.{}.{}.{}".format(*small), "See section {} of the manual."),
        (f"2019-0{small[0]}-1{small[1]}", "The meeting was on {} as usual."),
        (f"1{small[0]}.0{small[1]}.2018", "Since {} the museum is closed."),
        (f"978-3-16-{large[0]}{large[1]}-{small[0]}", "The book's ISBN is {}."),
        (wrong, "The order {} was sent."),
        (f"1{small[0]}:4{small[1]}:2{small[2]}", "The train left at {}."),
        (f"{small[0]},{large[0]},{large[1]}", "The town has {} people."),
        (f"{small[0]} {large[0]} {large[1]}", "The region has {} people."),
        ("".join(random.choice("0123456789abcdef") for _ in range(40)), "The change is {} in the archive."),
        ("@dataclass", "The decorator {} makes a constructor."),
        ("127.0.0.1", "By default the server listens on {} alone."),
        (f"{small[0]}{small[1]}.52{large[0]}, 13.40{large[1]}", "The harbour lies at {} on the map."),
        (f"16{large[0]}{large[1]}{large[2][:2]}", "The timestamp {} is in seconds."),
        (f"0x{small[0]}f{large[0]}a{large[1]}", "The address {} was freed twice."),
        ("std::vector<int>::iterator", "The type is {} here."),
        (f"00:1b:{large[0][:2]}:{large[1][:2]}:{large[2][:2]}:5e", "The card's hardware address is {}."),
        (f"3.14159{large[0]}{large[1]}{large[2]}", "The result was {} in the end."),
        (f"1024x{large[0]}", "The picture has {} points."),
    ])  # fmt: skip
    return text, frame.format(text)
