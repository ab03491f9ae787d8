"""The founding documents' TOML samples and `cp` lines, where those documents are at hand.

They are looked for in the folder that BERRY_SEEDS names, else in ../shared/seeds; without them the tests are skipped and
say so. Some of the documents were once read as Windows-1254 and saved again as UTF-8, which is undone here.
"""

import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from harness import check
from harness.paths import ROOT, SHIPPED

FOLDER = Path(os.environ.get("BERRY_SEEDS", ROOT.parent / "shared" / "seeds"))


def decode(raw: bytes) -> str:
    """The text of a document. Undoing a wrong decoding loses some characters of comments, never a key."""
    text = raw.decode()
    try:
        # Bytes that Windows-1254 does not define were kept as the code point of the same number.
        once = b"".join(bytes([ord(c)]) if 0x80 <= ord(c) < 0xA0 else c.encode("cp1254") for c in text)
    except UnicodeEncodeError:
        return text
    return once.decode(errors="replace")


def collect(pattern: str, flags: int = 0):
    """Every match in every document, named by document and line."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        text = decode(path.read_bytes())
        for match in re.finditer(pattern, text, flags | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            found.append(pytest.param(match[1], id=f"{path.name[:3]}-line-{line}"))
    absent = pytest.mark.skip(reason=f"no documents in {FOLDER}")
    return found or [pytest.param(None, id="documents", marks=absent)]


SAMPLES = collect(r"^ *```toml\n(.*?)^ *```", re.DOTALL)
COPIES = collect(r"^ *cp (\S+\.toml) config\.toml$")


def completed(sample: str) -> str:
    """The sample, with what it refers to and does not define itself added at the end.

    Keys without a table are settings; `[users.*]` and the like, an outline, stand for one table of that kind.
    """
    if not re.search(r"^ *\[", sample, re.MULTILINE):
        sample = "[settings]\n" + sample
    sample = sample.replace("[users.*]", '[users.any]\nname = "Any"\ntoken = "any-token"')
    sample = sample.replace("[providers.*]", '[providers.any]\nname = "Any"\nbase_url = "https://any.example/v1"\napi_key = "k"')
    backend = '[[models.any.backends]]\nprovider = "any"\nmodel = "any"'
    sample = sample.replace("[models.*]", f'[models.any]\nname = "any"\n{backend}')

    parsed = tomllib.loads(sample)
    models = parsed.get("models", {})
    known = {name for key, model in models.items() for name in (key, model["name"])}
    wanted = {name for user in parsed.get("users", {}).values() for name in user.get("allowed_models", [])}
    added = []
    for number, name in enumerate(sorted(wanted - known)):
        added.append(f'[models.added_{number}]\nname = "{name}"\n')
        added.append(f'[[models.added_{number}.backends]]\nprovider = "added"\nmodel = "{name}"\n')
    used = {backend["provider"] for model in models.values() for backend in model["backends"]}
    for name in sorted((used | ({"added"} if added else set())) - parsed.get("providers", {}).keys()):
        added.append(f'[providers.{name}]\nname = "{name}"\nbase_url = "https://{name.replace("_", "-")}.example/v1"\napi_key = "k"\n')
    return sample + "\n" + "".join(added)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_passes_the_check(tmp_path, sample):
    path = tmp_path / "sample.toml"
    path.write_text(completed(sample))
    check.accepted(path, cwd=tmp_path)


@pytest.mark.parametrize("source", COPIES)
def test_every_copied_file_is_shipped_and_passes_the_check_as_config_toml(tmp_path, source):
    for shipped in SHIPPED:
        (tmp_path / shipped.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(shipped, tmp_path / shipped.relative_to(ROOT))
    shutil.copy(tmp_path / source, tmp_path / "config.toml")
    answer = check.run("--check-config", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout
