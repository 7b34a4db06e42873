"""The page of the blocks runs, with the numbers that it shows; and it shows every block."""

import doctest
import re
from pathlib import Path

from convext import blocks

PAGE = Path(__file__).parents[2] / "docs" / "blocks.md"


def test_numbers_on_the_page() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 50


def test_every_block_is_on_the_page_with_its_figures() -> None:
    text = PAGE.read_text()
    code = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", text, re.MULTILINE))
    for name in blocks.__all__:
        assert re.search(rf"\b{name}\b`?\(|`{name}`", text.replace("**", "")), name
        assert re.search(rf"output_shape\({name}\(|aspp = {name}\(", code), name
