"""TeX to MathML through pandoc: all formulas of a page in one call, and a formula pandoc cannot read is an error.

A reader's browser draws MathML itself, so that pages need neither a script nor a font from the network. pandoc only warns
about a command that it does not know and leaves the TeX standing; here that warning stops the page.
"""

import json
import re
import subprocess

import pypandoc

AST_VERSION = [1, 23, 1]  # of pandoc's JSON documents, the same since pandoc 3.1
_FORMULA = re.compile(r"<p>(.*?)</p>", re.DOTALL)
_ANNOTATION = re.compile(r"<annotation\b.*?</annotation>", re.DOTALL)


def mathml(formulas: list[tuple[str, bool]]) -> list[str]:
    r"""MathML of each `(tex, display)`, tex without its dollars; ValueError names the first formula that cannot be read.

    `display` formulas stand on a line of their own. An environment such as `\begin{align}` is passed whole.
    """
    if not formulas:
        return []
    paragraphs = [{"t": "Para", "c": [{"t": "Math", "c": [{"t": "DisplayMath" if display else "InlineMath"}, tex.strip()]}]} for tex, display in formulas]
    document = json.dumps({"pandoc-api-version": AST_VERSION, "meta": {}, "blocks": paragraphs})
    command = [pypandoc.get_pandoc_path(), "--from=json", "--to=html5", "--mathml", "--wrap=none", "--fail-if-warnings"]
    done = subprocess.run(command, input=document, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise ValueError(f"A formula cannot be turned into MathML: {' '.join(done.stderr.split())[:400]}")
    found = [_ANNOTATION.sub("", formula) for formula in _FORMULA.findall(done.stdout)]
    if len(found) != len(formulas) or not all("<math" in formula for formula in found):
        raise ValueError(f"pandoc returned {len(found)} formulas for {len(formulas)}; a formula may be empty: {[tex for tex, _ in formulas if not tex.strip()]}")
    return found
