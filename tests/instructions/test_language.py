"""Languages that IFEval asks for, by one sentence each that shares no words with the lists of its neighbours alone."""

import pytest

from amaru.instructions.language import language

SENTENCES = {
    "ar": "هذا الكتاب من أجمل ما قرأت في حياتي، وقد كان على الطاولة.",
    "bg": "Това е книгата, която ще прочета след работа, защото не съм я виждал.",
    "bn": "আমি আজ সকালে একটি সুন্দর বই পড়েছি।",
    "de": "Heute Morgen habe ich ein Buch gelesen, das mir sehr gefallen hat und nicht lang ist.",
    "en": "This morning I read a book that was not long but very good.",
    "fa": "امروز صبح یک کتاب خواندم که برای من بسیار خوب بود و آن را دوست دارم.",
    "fi": "Tänä aamuna luin kirjan, joka oli hyvin kaunis, mutta se ei ollut pitkä.",
    "gu": "આજે સવારે મેં એક સુંદર પુસ્તક વાંચ્યું.",
    "hi": "आज सुबह मैंने एक किताब पढ़ी जो बहुत अच्छी है और लंबी नहीं है।",
    "it": "Questa mattina ho letto un libro che mi è piaciuto molto e non è lungo.",
    "kn": "ಇಂದು ಬೆಳಿಗ್ಗೆ ನಾನು ಒಂದು ಪುಸ್ತಕ ಓದಿದೆ.",
    "ko": "오늘 아침에 아주 좋은 책을 읽었습니다.",
    "mr": "आज सकाळी मी एक पुस्तक वाचले आणि ते खूप चांगले आहे.",
    "ne": "आज बिहान मैले एउटा किताब पढें र यो धेरै राम्रो छ।",
    "pa": "ਅੱਜ ਸਵੇਰੇ ਮੈਂ ਇੱਕ ਕਿਤਾਬ ਪੜ੍ਹੀ।",
    "pt": "Esta manhã li um livro que é muito bom e não tem muitas páginas.",
    "ru": "Сегодня утром я прочитал книгу, которая была не очень длинной, но хорошей.",
    "sw": "Leo asubuhi nilisoma kitabu kizuri sana kuhusu watu wa Afrika na historia yao.",
    "ta": "இன்று காலை நான் ஒரு நல்ல புத்தகம் படித்தேன்.",
    "te": "ఈ ఉదయం నేను ఒక మంచి పుస్తకం చదివాను.",
    "th": "เช้านี้ฉันอ่านหนังสือที่ดีมากเล่มหนึ่ง",
    "ur": "آج صبح میں نے ایک کتاب پڑھی جو بہت اچھی ہے اور لمبی نہیں ہے۔",
    "vi": "Sáng nay tôi đã đọc một cuốn sách rất hay và không dài.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_in_its_language(name: str) -> None:
    assert language(SENTENCES[name]) == name
    assert language(SENTENCES[name].upper()) == name


def test_what_tells_nothing_is_none() -> None:
    assert language("12 + 5 = 17") is None and language("") is None
