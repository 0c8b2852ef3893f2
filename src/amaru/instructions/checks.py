"""The 25 instructions of IFEval as functions: `CHECKS["keywords:frequency"]("a rose is a rose", keyword="rose", relation="at least",
frequency=2)`. Arguments are named as in IFEval's files."""

import json
import re
from collections.abc import Callable

from amaru.errors import DataError
from amaru.instructions.language import language
from amaru.instructions.text import capital_words, parts, sentences, words

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def compared(count: int, relation: str, wanted: int) -> bool:
    """Raises `DataError` for a relation that is neither "at least" nor "less than"."""
    if relation not in ("at least", "less than"):
        raise DataError(f"An instruction compares by 'at least' or 'less than'; got '{relation}'.")
    return count >= wanted if relation == "at least" else count < wanted


def keywords_existence(text: str, keywords: list[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keywords)


def keywords_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compared(text.lower().count(keyword.strip().lower()), relation, frequency)


def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    """As whole words only."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compared(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return speaks(text, language)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compared(len(sentences(text)), relation, num_sentences)


def number_words(text: str, num_words: int, relation: str) -> bool:
    return compared(len(words(text)), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs stand between `***`."""
    found = parts(text, "***")
    return found is not None and len(found) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs stand between blank lines; quotation marks before the word and punctuation behind it do not count."""
    blocks = text.split("\n\n")
    if sum(bool(block.strip()) for block in blocks) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    block = blocks[nth_paragraph - 1].split()
    return bool(block) and re.split(r"[.,?!'\"]", block[0].lstrip("'\"").lower())[0] == first_word.lower()


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """`P.S.` and `P.P.S` also with spaces between the letters; anything else as it is written. Case does not matter."""
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(spaced.get(postscript_marker, re.escape(postscript_marker.lower())), text.lower()) is not None


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    """Lines that begin with `-`, or with one `*`."""
    return len(re.findall(r"^\s*(?:-|\*[^*\n])", text, re.MULTILINE)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """`*like this*` or `**like this**`, within a line and not blank."""
    marked = [*re.findall(r"\*([^\n*]*)\*", text), *re.findall(r"\*\*([^\n*]*)\*\*", text)]
    return sum(bool(each.strip()) for each in marked) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Sections begin with their word and a number: `Section 1`."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """The whole answer is one JSON value, which may stand in a fence."""
    bare = re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    return any(found.strip("<> \t") for found in re.findall(r"<<([^\n]+)>>", text))


def two_responses(text: str) -> bool:
    """Two that differ, with six asterisks between."""
    found = parts(text, "******")
    return found is not None and len(found) == 2 and found[0] != found[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return compared(len(capital_words(text)), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and speaks(text, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and speaks(text, "en")


def no_comma(text: str) -> bool:
    return "," not in text


def quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def speaks(text: str, wanted: str) -> bool:
    """A text in which nothing tells its language counts."""
    return language(text) in (None, wanted)


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
