"""Which language a text is in: by its script, and among languages of one script by their commonest words and own letters.

This replaces langdetect, which IFEval asks: no dependency, the same answer every time. It knows the languages that IFEval asks for and
their neighbours; a text that gives no evidence is None, which IFEval counts as followed.
"""

import unicodedata
from collections import Counter

from amaru.instructions.text import words

ALONE = {  # scripts that one language is nearly always meant by
    "BENGALI": "bn",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "HANGUL": "ko",
    "GREEK": "el",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "SINHALA": "si",
    "KHMER": "km",
    "LAO": "lo",
    "MYANMAR": "my",
    "ETHIOPIC": "am",
}
COMMON = {
    "LATIN": {
        "en": "the and of to in is that it for was on are with as you this be at have from or not by but what all were we your can",
        "de": "der die und das ist nicht ein eine zu den mit von für auf sich im dem des auch es ich sie wir wie oder aber nach bei",
        "fr": "le la les et des est une dans que pour qui pas sur avec ce il elle nous vous au du en plus par sont mais cette",
        "es": "el la los las y de que en un una es por con para se no su al lo como más pero del este está son muy también",
        "pt": "o a os as e de que em um uma é por com para se não seu sua ao como mais mas do da no na dos das são muito também você",
        "it": "il lo la gli le e di che in un una è per con non si sono come più ma del della nel anche questo ha dei alla sua",
        "nl": "de het een en van is dat niet in op te zijn voor met die aan er ook maar om bij dan naar wordt deze",
        "sv": "och att det är som en på av för med inte den till har om ett jag vi men från kan så",
        "da": "og at det er som en på af for med ikke den til har om et jeg vi men fra kan så hvad",
        "fi": "ja on ei että se oli hän joka mutta kun niin myös ovat tai minä olen kuin voi sen tämä mitä jos sinun hyvin",
        "pl": "i w nie na się z że do to jest jak o ale po co są tak od przez dla czy jego jej",
        "cs": "a v se na je že to s z do o ale jako by jsou za pro byl jeho tak nebo jsem",
        "ro": "și în de a la cu pe nu este din care sunt pentru mai un o să ca dar fi au sau",
        "hu": "a az és hogy nem is egy van ez meg de csak volt mint már még vagy ha el lesz",
        "tr": "ve bir bu için de da ile çok ne daha gibi olarak ama en var kadar sonra değil mi olan",
        "id": "yang dan di ini itu untuk dengan tidak dari dalam akan pada adalah ke juga saya bisa atau ada karena",
        "sw": "na ya wa kwa ni za katika la kuwa hii cha yake ili kama hiyo sana au lakini pia watu yetu yako mimi wewe hili wao",
        "vi": "và của là có không được cho một những các trong với người này khi tôi để đã bạn như về cũng nhưng rất sẽ",
    },
    "CYRILLIC": {
        "ru": "и в не на что с он как это но по из у за его для от так же вы мы я она они был есть быть все к или чтобы",
        "bg": "и на да се в от е за не с си че като това ще са по но до след има бъде може той тя ние вие съм беше които който",
        "uk": "і в не на що з він як це але та до за його для від так ви ми я вона вони був є бути все або щоб",
        "sr": "и у је да се на не за са од што као али то су био по из који њих",
    },
    "ARABIC": {
        "ar": "في من على أن إلى هذا كان التي الذي هذه عن مع لا ما هو هي قد أو كل إن بعد قبل ذلك يمكن عند كما أنا لم",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم شما ما می من یا اگر کرد بود باید شود هستند های",
        "ur": "اور کے کی میں ہے کا سے کو نے پر کہ یہ ہیں اس نہیں ایک وہ تھا بھی کر آپ ہم جو لیے تو ہو",
    },
    "DEVANAGARI": {
        "hi": "है और के की में का से को पर यह कि हैं एक नहीं भी हो लिए कर था ने इस आप हम जो तो वह या मैं",
        "mr": "आहे आणि च्या मध्ये हे ही तो ते या एक नाही आहेत होते करा साठी पण का की मी आम्ही तुम्ही आपण असे त्या",
        "ne": "छ र को मा छन् हो यो पनि लाई गर्न भएको एक तर हुन्छ गरेको छैन म हामी तपाईं थियो उनी नेपाल लागि गर्नुहोस्",
    },
}
OWN = {  # letters that tell neighbours apart
    "de": "ß",
    "pt": "ãõ",
    "es": "ñ¿¡",
    "sv": "",
    "vi": "ơưăđạảấầẩậắằặẹẻẽếềểễệịọỏốồổỗộớờởợụủứừửữựỳỷỹ",
    "tr": "ğış",
    "ru": "ыэё",
    "bg": "",
    "uk": "їєґі",
    "sr": "ђћњљџј",
    "fa": "گچپژ",
    "ur": "ٹڈڑےںھ",
    "mr": "ळ",
}


def language(text: str) -> str | None:
    """`language("Das ist nicht der Weg") == "de"`; ISO 639-1, None where nothing tells."""
    script = _script(text)
    if script in ALONE:
        return ALONE[script]
    if script not in COMMON:
        return None
    counts, letters = Counter(_parts(text)), Counter(text.lower())
    evidence = {
        name: sum(counts[word] for word in set(common.split())) + sum(letters[letter] for letter in OWN.get(name, ""))
        for name, common in COMMON[script].items()
    }
    best = max(evidence, key=lambda name: evidence[name])
    return best if evidence[best] else None


def _script(text: str) -> str | None:
    """The script of most letters; kana say Japanese although most characters are Chinese ones."""
    found = Counter(unicodedata.name(char, "").split(" ")[0].split("-")[0] for char in text if char.isalpha())
    if found["HIRAGANA"] + found["KATAKANA"]:
        found["HIRAGANA"] += found.pop("CJK", 0)
    return found.most_common(1)[0][0] if found else None


def _parts(text: str) -> list[str]:
    """Words with their vowel signs, which \\w leaves out in Indic scripts."""
    marks = {char for char in text if unicodedata.category(char) in ("Mn", "Mc")}
    if not marks:
        return words(text.lower())
    return "".join(char if char.isalnum() or char in marks else " " for char in text.lower()).split()
