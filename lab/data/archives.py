"""Reading single files of archives."""

import tarfile

from lab.errors import CorruptFileError


def member_content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a regular file of a tar archive.

    Raises: CorruptFileError where the member is none (a folder, a link to nothing).
    """
    file = archive.extractfile(member)
    if file is None:
        raise CorruptFileError(f"{archive.name}: {member.name} is no regular file")
    return file.read()
