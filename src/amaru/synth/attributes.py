"""What a reward model says of an answer: attributes as a chat completion holds them, in the form of Nemotron-4-340B-Reward's endpoint.

    choices[0].logprobs.content[i] = {"token": "helpfulness", "logprob": 1.6171875}

Where there are no logprobs, the message may say the same: `helpfulness:1.6171875,correctness:1.6484375`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from amaru.synth.attempt import Broken
from amaru.synth.call import Answer

SAID = re.compile(r"([A-Za-z_]\w*)\s*[:=]\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


def read_attributes(choice: Mapping[str, Any]) -> str:
    """JSON of the attributes, as the store keeps it. Raises `Broken` where there are none."""
    try:
        found = {each["token"]: float(each["logprob"]) for each in (choice.get("logprobs") or {}).get("content") or ()}
        found = found or {name: float(value) for name, value in SAID.findall(_text(choice))}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Broken("the answer's scores are no pairs of token and logprob") from None
    if not found or not all(map(math.isfinite, found.values())):
        raise Broken("the answer holds no scores; a reward model gives them as logprobs, one for each attribute")
    return json.dumps(found)


def told(answer: Answer) -> dict[str, float]:
    """What `read_attributes` read."""
    return json.loads(answer.content)


def _text(choice: Mapping[str, Any]) -> str:
    """The message, or the parts that it comes in."""
    content = (choice.get("message") or {}).get("content") or ""
    return content if isinstance(content, str) else " ".join(str(part.get("content", "")) for part in content)
