"""Sentences at random: in six languages, in English by topic and in two qualities, and other things that web pages hold. Whoever
plants a fact in a page knows it, so that what a step of curation finds can be counted."""

import re
from random import Random

TOPICS = {
    "astronomy": "star galaxy telescope comet planet nebula orbit eclipse asteroid observatory crater satellite meteor supernova",
    "cooking": "soup oven recipe dough pepper kitchen onion butter sauce noodle flour skillet dessert marinade",
    "history": "empire treaty castle dynasty parliament siege chronicle archive monastery rebellion emperor province decree fortress",
    "computing": "compiler database kernel network processor algorithm server keyboard protocol interpreter scheduler cache packet debugger",
    "sport": "goalkeeper stadium referee tournament sprinter league coach penalty marathon champion defender trophy season racket",
    "music": "violin orchestra melody concert composer rhythm pianist chorus symphony guitar drummer quartet opera album",
}  # fmt: skip
ENGLISH = {
    "adjective": "small old distant quiet famous heavy curious bright early narrow modern local careful hidden strange broken "
                 "simple patient northern warm crowded rare public steady ancient hollow young slow elegant ordinary",
    "thing": "village letter garden teacher machine river morning question harbour library window market engine neighbour story "
             "valley report journey painter bridge student picture island forest lesson visitor museum bottle carpenter clock",
    "verb": "describes changed followed improved replaced measured surprised explained reached supported doubted joined crossed "
            "observed remembered visited repaired compared divided finished prepared noticed carried answered counted sketched",
    "place": "in the north/near the coast/after the war/for many years/during the winter/at the edge of town/without much noise/"
             "before the meeting/with great care/across the country/under a clear sky/in spite of the rain/on the second day/"
             "by the end of the century/beyond the hills/over several weeks/between two long summers/from the first page",
}  # fmt: skip
PLAIN = [
    "The {adjective} {topic} {verb} the {thing} {place}.",
    "{place}, a {adjective} {thing} {verb} the {topic} of the {adjective} {thing}.",
    "It was the {topic} that {verb} every {adjective} {thing}, and the {thing} {verb} the {adjective} {topic} as well.",
    "Most of the {topic} and {thing} records say that the {adjective} {thing} {verb} a {topic} {place}.",
    "Scholars have shown how one {topic} {verb} another {topic}, although the {adjective} {thing} was {adjective} too.",
    "When the {thing} {verb} this {adjective} {topic}, the {thing} had been {adjective} to the {topic} {place}.",
]
CROWD = [
    "omg you guys this {topic} is sooo {adjective} lol, i just {verb} my {thing} and cant even!!!",
    "CLICK HERE to get the best {topic} deals for your {thing} now, {adjective} prices only today!!!",
    "lol my {thing} {verb} that {topic} again, so {adjective}, whatever, who even likes a {thing} anyway...",
    "Buy {topic} online cheap {topic} free shipping {adjective} {thing} best price order now and save on the {thing}!",
    "idk but the {adjective} {topic} of my {thing} {verb} me, pls like and share and follow the {thing} for more!!",
]  # fmt: skip
# Subjects, verbs, objects and places; any four of them are a sentence.
OTHERS = {
    "de": ("Der alte Lehrer/Die kleine Stadt/Unser Nachbar/Das neue Gesetz/Die junge Malerin/Der lange Winter/Ein fremder Gast/Die Werkstatt/"
           "Das stille Dorf/Eine Kollegin/Der breite Fluss/Die letzte Prüfung/Das Museum/Ein Schreiner/Die Bibliothek/Der Bürgermeister",
           "beschreibt/verändert/erklärt/besuchte/zeigte/verbesserte/suchte/fand/ersetzte/überraschte/beobachtete/begleitete",
           "den schmalen Weg/eine einfache Lösung/das große Haus/die Geschichte des Hafens/einen seltenen Brief/die Arbeit der Schüler/"
           "das Ende der Reise/den Garten hinter der Kirche/die Ursache des Fehlers/ein schönes Bild/die Brücke aus Holz/den Bericht über das Wetter",
           "im Norden des Landes/nach dem Krieg/seit vielen Jahren/am Rand der Stadt/mit großer Sorgfalt/trotz des Regens/vor der Sitzung/"
           "ohne viel Lärm/während des Sommers/zwischen den Hügeln/am zweiten Tag/für die Kinder"),
    "fr": ("Le vieux professeur/La petite ville/Notre voisine/La nouvelle loi/Le jeune peintre/Un long hiver/Une amie étrangère/L'atelier/"
           "Le village tranquille/Ma collègue/Le large fleuve/Le dernier examen/Le musée/Un menuisier/La bibliothèque/Le maire",
           "décrit/a changé/explique/a visité/montrait/améliore/cherchait/a trouvé/remplace/a surpris/observait/accompagne",
           "le chemin étroit/une solution simple/la grande maison/l'histoire du port/une lettre rare/le travail des élèves/la fin du voyage/"
           "le jardin derrière l'église/la cause de l'erreur/un beau tableau/le pont en bois/le rapport sur le temps qu'il fait",
           "dans le nord du pays/après la guerre/depuis de nombreuses années/à la sortie de la ville/avec beaucoup de soin/malgré la pluie/"
           "avant la réunion/sans trop de bruit/pendant l'été/entre les collines/le deuxième jour/pour les enfants"),
    "es": ("El viejo maestro/La pequeña ciudad/Nuestro vecino/La nueva ley/La joven pintora/Un largo invierno/Una amiga extranjera/El taller/"
           "El pueblo tranquilo/Mi compañera/El ancho río/El último examen/El museo/Un carpintero/La biblioteca/El alcalde",
           "describe/cambió/explica/visitó/mostraba/mejora/buscaba/encontró/reemplaza/sorprendió/observaba/acompaña",
           "el camino estrecho/una solución sencilla/la casa grande/la historia del puerto/una carta poco común/el trabajo de los alumnos/"
           "el fin del viaje/el jardín detrás de la iglesia/la causa del error/un cuadro hermoso/el puente de madera/el informe sobre el tiempo",
           "en el norte del país/después de la guerra/desde hace muchos años/a las afueras de la ciudad/con mucho cuidado/a pesar de la lluvia/"
           "antes de la reunión/sin hacer ruido/durante el verano/entre las colinas/al segundo día/para los niños"),
    "it": ("Il vecchio maestro/La piccola città/Il nostro vicino/La nuova legge/La giovane pittrice/Un lungo inverno/Un'amica straniera/"
           "La bottega/Il paese tranquillo/La mia collega/Il largo fiume/L'ultimo esame/Il museo/Un falegname/La biblioteca/Il sindaco",
           "descrive/ha cambiato/spiega/ha visitato/mostrava/migliora/cercava/ha trovato/sostituisce/ha sorpreso/osservava/accompagna",
           "la strada stretta/una soluzione semplice/la casa grande/la storia del porto/una lettera rara/il lavoro degli allievi/"
           "la fine del viaggio/il giardino dietro la chiesa/la causa dell'errore/un bel quadro/il ponte di legno/la relazione sul tempo",
           "nel nord del paese/dopo la guerra/da molti anni/alla periferia della città/con molta cura/nonostante la pioggia/prima della riunione/"
           "senza fare rumore/durante l'estate/tra le colline/il secondo giorno/per i bambini"),
    "nl": ("De oude leraar/Het kleine stadje/Onze buurman/De nieuwe wet/De jonge schilderes/Een lange winter/Een vreemde gast/De werkplaats/"
           "Het stille dorp/Een collega/De brede rivier/Het laatste examen/Het museum/Een timmerman/De bibliotheek/De burgemeester",
           "beschrijft/veranderde/verklaart/bezocht/toonde/verbeterde/zocht/vond/vervangt/verraste/bekeek/begeleidde",
           "het smalle pad/een eenvoudige oplossing/het grote huis/de geschiedenis van de haven/een zeldzame brief/het werk van de leerlingen/"
           "het einde van de reis/de tuin achter de kerk/de oorzaak van de fout/een mooi schilderij/de houten brug/het verslag over het weer",
           "in het noorden van het land/na de oorlog/sinds vele jaren/aan de rand van de stad/met grote zorg/ondanks de regen/"
           "voor de vergadering/zonder veel lawaai/tijdens de zomer/tussen de heuvels/op de tweede dag/voor de kinderen"),
}  # fmt: skip
LANGUAGES = ["en", *OTHERS]
LISTS = {name: text.split("/") if "/" in text else text.split() for name, text in ENGLISH.items()}
PHRASES = {language: [part.split("/") for part in parts] for language, parts in OTHERS.items()}
JOINTS = {"de": ", und", "fr": ", et", "es": ", y", "it": ", e", "nl": ", en"}
DIRTY = "blorfing snarkle grumptious fizzlewomp drabnick scumbler quazzle".split()  # dirty words: invented, as a user's own list
CODE = [
    "def {a}_{b}(values, limit={n}):",
    "    {c} = sorted(values)[:limit]",
    "    for {b}, item in enumerate({c}):",
    "        if item % {n} == {m}:",
    "            {c}[{b}] = item * {m} + {n}",
    "    return {{'{a}': sum({c}), '{b}': {n}}}",
]
TEX = [r"\int_{{{n}}}^{{{m}}} x^{{{n}}} \, dx = \frac{{{m}}}{{{n}}}", r"\sum_{{k={n}}}^{{{m}}} k^{{{n}}} \le {m}^{{{n}}}",
       r"\sqrt{{x^{{{n}}} + {m}}} \ne {n} x + {m}"]  # fmt: skip


def topic_words(topic: str | None, random: Random) -> list[str]:
    return TOPICS[topic or random.choice(list(TOPICS))].split()


def english(random: Random, topic: str | None = None, crowd: bool = False) -> str:
    """One sentence."""
    lists = LISTS | {"topic": topic_words(topic, random)}
    text = re.sub(r"\{(\w+)\}", lambda found: random.choice(lists[found[1]]), random.choice(CROWD if crowd else PLAIN))
    text = re.sub(r"\b(a)(?= [aeiou])", r"\1n", text, flags=re.I)
    return text if crowd else text[0].upper() + text[1:]


def sentence(random: Random, language: str = "en", topic: str | None = None) -> str:
    if language == "en":
        return english(random, topic)
    first, second = ([random.choice(part) for part in PHRASES[language]] for _ in range(2))
    return f"{' '.join(first)}{JOINTS[language]} {second[0][0].lower()}{' '.join(second)[1:]}."


def paragraph(random: Random, language: str = "en", topic: str | None = None, crowd: bool = False) -> str:
    count = random.randint(3, 6)
    return " ".join(english(random, topic, True) if crowd else sentence(random, language, topic) for _ in range(count))


def article(random: Random, language: str = "en", topic: str | None = None, crowd: bool = False) -> list[str]:
    """Paragraphs, one in five of which is about something else."""
    return [paragraph(random, language, topic if random.random() < 0.8 else None, crowd) for _ in range(random.randint(4, 8))]


def code(random: Random) -> str:
    words = random.sample(LISTS["thing"], 3)
    fields = dict(zip("abc", words), n=random.randint(2, 99), m=random.randint(100, 999))
    return "\n".join(line.format(**fields) for line in CODE)


def formula(random: Random) -> str:
    return random.choice(TEX).format(n=random.randint(2, 19), m=random.randint(20, 99))


def log_lines(random: Random, count: int) -> list[str]:
    """A log: the lines differ in time and host alone."""
    tail = f"INFO {random.choice(LISTS['thing'])} service accepted the connection and closed it after the usual timeout of 30 s"
    return [f"2024-03-{day:02} {random.randint(0, 23):02}:{second % 60:02}:00 host{random.randint(1, 3)} {tail}"
            for second, day in enumerate(sorted(random.randint(1, 28) for _ in range(count)))]  # fmt: skip


def gibberish(random: Random) -> str:
    """Sentences in words of no language."""
    def word():
        return "".join(random.choice("bcdfghjklmnpqrstvwxz") + random.choice("aeiou") for _ in range(random.randint(2, 4)))

    return " ".join(" ".join(word() for _ in range(random.randint(8, 14))).capitalize() + "." for _ in range(5))


def question(random: Random) -> str:
    """A test's question. No eight words in a row are without a number, so that one with other numbers shares no 8-gram."""
    a, b, c, d, e, f = (random.randint(11, 99999) for _ in range(6))
    things = random.sample(LISTS["thing"], 3)
    return (f"If {a} {things[0]} boxes with {b} pens and {c} {things[1]} jars with {d} coins weigh {e} grams, "
            f"what would {f} {things[2]} boxes weigh?")  # fmt: skip


def retyped(random: Random, text: str) -> str:
    """A question as other pages give it: in lower case, without its marks, or only its beginning."""
    words = text.split(" ")
    return random.choice([text, text.lower(), re.sub(r"[,?]", "", text), " ".join(words[: 2 * len(words) // 3])])


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shingles(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def jaccard(one: str, other: str, size: int = 5) -> float:
    """Of the sets of runs of `size` words."""
    a, b = shingles(one, size), shingles(other, size)
    return len(a & b) / max(1, len(a | b))


def nearly(random: Random, paragraphs: list[str], wanted: float) -> list[str]:
    """The paragraphs with single words replaced, until the Jaccard similarity to them is at most `wanted`; it is just below."""
    whole, changed = "\n".join(paragraphs), [text.split(" ") for text in paragraphs]
    places = [(p, w) for p, words in enumerate(changed) for w, word in enumerate(words) if word.isalpha()]
    random.shuffle(places)
    for p, w in places:
        changed[p][w] = random.choice(LISTS["thing"]) + random.choice(LISTS["adjective"])
        texts = [" ".join(words) for words in changed]
        if jaccard(whole, "\n".join(texts)) <= wanted:
            break
    return texts
