"""How instructions are said: several wordings of each in our own words, and sentences that ask for them in one turn or another."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

WORDINGS: dict[str, tuple[str, ...]] = {
    "keywords:existence": (
        "Make use of these words: {keywords}.",
        "The words {keywords} must all occur in what you write.",
        "Work in every one of the following: {keywords}.",
    ),
    "keywords:frequency": (
        "The word {keyword} should appear {relation} {frequency} times.",
        "Say {keyword} {relation} {frequency} times.",
    ),
    "keywords:forbidden_words": (
        "Do without these words: {forbidden_words}.",
        "None of the following may occur: {forbidden_words}.",
    ),
    "keywords:letter_frequency": (
        "Let the letter {letter} occur {let_relation} {let_frequency} times.",
        "Count your letters: {letter} has to be there {let_relation} {let_frequency} times.",
    ),
    "keywords:exact_frequency": (
        "Use the word {keyword} exactly {frequency} times.",
        "{keyword} has to occur {frequency} times, neither more nor less.",
    ),
    "language:response_language": ("Write everything in {language}.", "Your whole answer is to be in {language}."),
    "length_constraints:number_sentences": (
        "Write {relation} {num_sentences} sentences.",
        "The answer should have {relation} {num_sentences} sentences.",
    ),
    "length_constraints:number_words": (
        "Write {relation} {num_words} words.",
        "Keep to a length of {relation} {num_words} words.",
        "Your answer needs {relation} {num_words} words.",
    ),
    "length_constraints:exact_words": ("Write exactly {num_words} words.", "Your answer has {num_words} words, not one more or less."),
    "length_constraints:number_paragraphs": (
        "Divide the answer into {num_paragraphs} paragraphs with *** between them.",
        "There should be {num_paragraphs} paragraphs; put *** between one and the next.",
    ),
    "length_constraints:nth_paragraph_first_word": (
        "Write {num_paragraphs} paragraphs with a blank line between them; paragraph {nth_paragraph} begins with the word {first_word}.",
        "Let {first_word} be the first word of paragraph {nth_paragraph}. There are {num_paragraphs} paragraphs, set apart by blank lines.",
    ),
    "detectable_content:number_placeholders": (
        "Leave at least {num_placeholders} places to be filled in, in square brackets, such as [name].",
        "Put in {num_placeholders} or more placeholders like [address].",
    ),
    "detectable_content:postscript": (
        "Close with a postscript that starts with {postscript_marker}",
        "After the end, add something that begins with {postscript_marker}",
    ),
    "detectable_format:number_bullet_lists": (
        "Include exactly {num_bullets} bullet points, each a line that starts with an asterisk and a blank (* like this).",
        "Give {num_bullets} bullet points, no more and no fewer; every one begins with * and a blank.",
    ),
    "detectable_format:numbered_list": (
        "Give a numbered list of {num_items} items, a line each (1. 2. and so on).",
        "Answer with {num_items} numbered lines, beginning at 1.",
    ),
    "detectable_format:constrained_response": (
        "Answer with one of these and nothing else: 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'",
        "Choose from: 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'",
    ),
    "detectable_format:number_highlighted_sections": (
        "Highlight at least {num_highlights} passages with asterisks, *as here*.",
        "Mark {num_highlights} or more parts of the text by asterisks around them, such as *this part*.",
    ),
    "detectable_format:multiple_sections": (
        "Write {num_sections} sections and begin each with {section_spliter} and its number, such as {section_spliter} 1.",
        "The text has {num_sections} sections, headed {section_spliter} 1 and so on.",
    ),
    "detectable_format:json_format": ("Give the whole answer as JSON.", "Everything you write must be one JSON value."),
    "detectable_format:title": (
        "Give it a title in double angle brackets, <<like this>>.",
        "There must be a heading that is wrapped as <<heading>>.",
    ),
    "combination:two_responses": (
        "Give two different answers with six asterisks (******) between them.",
        "Answer twice, differently, and separate the two by ******.",
    ),
    "combination:repeat_prompt": (
        "First repeat this request word for word, then answer it: {prompt_to_repeat}",
        "Begin by saying exactly the following, and answer after it: {prompt_to_repeat}",
    ),
    "startend:end_checker": (
        "The very last words are: {end_phrase}",
        "Stop after exactly this phrase, with nothing behind it: {end_phrase}",
    ),
    "startend:quotation": ('Put the whole answer in double quotation marks ("...").', "Begin and end with a double quotation mark."),
    "startend:first_word": ("Begin with the word {first_word}.", "The first word is {first_word}."),
    "startend:last_word": ("End with the word {last_word}.", "The last word is {last_word}."),
    "change_case:capital_word_frequency": (
        "Words in capital letters should occur {capital_relation} {capital_frequency} times.",
        "Write {capital_relation} {capital_frequency} words in CAPITALS.",
    ),
    "change_case:english_capital": (
        "Write in English and in capital letters only.",
        "Use nothing but capital letters, in English.",
    ),
    "change_case:english_lowercase": (
        "Write in English without any capital letter.",
        "Use small letters only, in English.",
    ),
    "punctuation:no_comma": ("Use no commas.", "There must not be a comma anywhere in the answer."),
}
LANGUAGES = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "ru": "Russian",
    "ar": "Arabic",
    "hi": "Hindi",
    "ja": "Japanese",
    "ko": "Korean",
    "vi": "Vietnamese",
    "fi": "Finnish",
}
LATER = (
    "From now on, keep to this in every answer: {all}",
    "For the rest of our conversation the following holds for all your answers. {all}",
)
REVISED = (
    "Rewrite your last answer so that it also keeps to this: {all}",
    "Now change what you wrote. {all}",
    "Please give the answer again, but with this in mind: {all}",
)


def sentence_of(kind: str, arguments: Mapping[str, Any], generator: random.Random) -> str:
    """One of the wordings of a kind with its arguments in it."""
    said = {name: ", ".join(value) if isinstance(value, list) else value for name, value in arguments.items()}
    if kind == "language:response_language":
        said["language"] = LANGUAGES.get(arguments["language"], arguments["language"])
    return generator.choice(WORDINGS[kind]).format(**said)


def asked(prompt: str, sentences: Sequence[str], seed: int) -> str:
    """A prompt with instructions behind it, or before it: `asked("Write about rivers.", ["Use no commas."], seed=3)`."""
    generator = random.Random(f"asked {seed} {prompt}")
    return " ".join([*sentences, prompt] if generator.random() < 0.25 else [prompt, *sentences])


def asked_from_now_on(sentences: Sequence[str], seed: int) -> str:
    """Instructions for all later turns, as a message of its own or a system prompt."""
    return random.Random(f"later {seed}").choice(LATER).format(all=" ".join(sentences))


def asked_to_revise(sentences: Sequence[str], seed: int) -> str:
    """The message of a second turn that asks for the first answer again."""
    return random.Random(f"revise {seed}").choice(REVISED).format(all=" ".join(sentences))
