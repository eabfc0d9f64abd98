"""What an image should show, in words."""

from collections.abc import Mapping
from dataclasses import dataclass

# Template of a prompt -> is it a positive prompt (or a negative one)? {} is the subject, "a thick sneaker".
QUALITY_PROMPTS: Mapping[str, bool] = {
    "a good photo of {}": True,
    "a clear photo of {}": True,
    "a blurry photo of {}": False,
    "a noisy photo of {}": False,
}


def subject(class_name: str, strengths: Mapping[str, float], phrases: Mapping[str, str]) -> str:
    """What a prompt is about: ("Sneaker", {"thick": 0.8}, {"thick": "thick"}) -> "a thick sneaker"."""
    words = [("slightly " if value < 1 / 3 else "") + phrases[name] for name, value in strengths.items() if value > 0]
    return with_article(" ".join([*words, class_name.lower()]))


def prompt(subject: str, quality: str = "clear") -> str:
    """("a thick sneaker", "clear") -> "a clear photo of a thick sneaker"."""
    return with_article(f"{quality} photo of {subject}".strip())


def with_article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class PromptTarget:
    """What an image should show, in words."""

    subjects: tuple[str, ...]  # of each class in these styles: "a thick sneaker"
    class_id: int
    quality_prompts: Mapping[str, bool]

    @property
    def subject(self) -> str:
        return self.subjects[self.class_id]
