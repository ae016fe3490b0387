"""The reference has an entry for every public name, and none besides; the pages on the house and on versions hold."""

import re
from collections import Counter
from pathlib import Path

import optlab
from optlab import codecs, lab, masks, testing

DOCS = Path(__file__).parent.parent / "docs"
ENTRY = re.compile(r"^\.\. (?:auto)?(?:function|class|exception|data):: +(\w+(?:\n {10,}\w+)*)$", flags=re.MULTILINE)


def entries() -> list[str]:
    """The names that the pages of the reference have an entry for, in full."""
    found = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        for part in page.read_text().split(".. currentmodule:: ")[1:]:
            module = part.split()[0]
            found += [f"{module}.{name}" for group in ENTRY.findall(part) for name in group.split()]
    return found


def test_every_public_name_has_an_entry_and_no_other():
    counts = Counter(entries())
    modules = {"optlab": optlab, "optlab.codecs": codecs, "optlab.masks": masks}
    modules |= {"optlab.testing": testing, "optlab.lab": lab}
    wanted = {f"{path}.{name}" for path, module in modules.items() for name in module.__all__}
    wanted |= {f"optlab.testing.{name.replace(' ', '_')}" for name in testing.PROPERTIES}
    assert wanted - counts.keys() == set()
    assert counts.keys() - wanted == set()
    assert {name for name, count in counts.items() if count > 1} == set()


def test_every_page_is_reached_from_the_first():
    index = (DOCS / "index.md").read_text()
    listed = {
        line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL) for line in block.split()
    }
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"}
    assert pages <= listed
