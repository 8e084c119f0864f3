"""Lists the licence of every library that szpo and its extras of the container install.

Run: python tests/support/licences.py [BILL]. The exit code is 1 if a library names none, or one
that binds what is distributed with it. BILL is a file for the list as a bill of materials
(CycloneDX 1.6, JSON).
"""

import re
import sys
from importlib import metadata
from importlib.metadata import Distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tests.support.release_check import closure

EXTRAS = ("ui", "judge")
BINDING = re.compile(r"\b(?:AGPL|GPL|SSPL|Affero)|GNU General", re.IGNORECASE)


def licence(library: Distribution) -> str:
    """What its metadata says: the expression, else the classifiers, else the first line."""
    facts = library.metadata
    if expression := facts.get("License-Expression"):
        return expression
    listed = [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier") or () if "License" in c]
    return " / ".join(listed) or (facts.get("License") or "none named").strip().splitlines()[0]


def bill(rows: dict[str, str], found: dict[str, Distribution]) -> str:
    """The list as a bill of materials."""
    make, made = LicenseFactory(), Bom()
    for name, said in rows.items():
        version = found[name].version
        purl = PackageURL("pypi", name=name, version=version)
        licences = [make.make_from_string(said)]
        made.components.add(
            Component(name=name, version=version, licenses=licences, purl=purl, bom_ref=str(purl))
        )
    return JsonV1Dot6(made).output_as_string(indent=2)


def main() -> int:
    """Print the list and the verdict."""
    asked = sorted(closure([f"szpo[{','.join(EXTRAS)}]"]) - {"szpo"})
    found = {name: metadata.distribution(name) for name in asked}
    rows = {name: licence(library) for name, library in found.items()}
    for name, said in rows.items():
        print(f"{name} {found[name].version}: {said}")
    for file in sys.argv[1:]:
        Path(file).write_text(bill(rows, found))
    odd = [name for name, said in rows.items() if said == "none named" or BINDING.search(said)]
    print(f"{len(rows)} libraries; to look at: {', '.join(odd) or 'none'}")
    return int(bool(odd))


if __name__ == "__main__":
    sys.exit(main())
