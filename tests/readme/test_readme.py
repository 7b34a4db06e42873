"""The page of the kernels says what the records say."""

from pathlib import Path

from convext.commands import kernel_table

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def test_table_of_kernels_is_the_records() -> None:
    """After a change of kernels: paste the output of `python -m convext info --kernels` between the markers."""
    table = PAGE.read_text().split("<!-- kernels -->")[1].split("<!-- /kernels -->")[0]
    assert table.strip() == kernel_table.markdown()
