"""English prose, plays and speeches in the public domain, for small language models."""

import lzma
import tarfile
from pathlib import Path, PurePosixPath

from lab.data.archives import member_content
from lab.errors import CorruptFileError, DatasetNotFoundError, require

SPLITS = ("train", "validation")
VALIDATION_SHARE = 0.05


def read_text(path: str | Path, split: str = "train") -> dict[str, str]:
    """The texts by name; of each the first 95 % are for training, the last 5 % for validation.

    Args: path, the archive `english_pd.tar.xz`.
    Raises: DatasetNotFoundError, CorruptFileError.
    """
    require(split in SPLITS, f"split is {split!r}; accepted: {', '.join(SPLITS)}")
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there")
    texts = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    text = member_content(archive, member).decode("ascii")
                    texts[PurePosixPath(member.name).stem] = _part(text, split)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}") from error
    require(bool(texts), f"{path} holds no texts", CorruptFileError)
    return texts


def _part(text: str, split: str) -> str:
    cut = int(len(text) * (1 - VALIDATION_SHARE))
    return text[:cut] if split == "train" else text[cut:]
