"""Images inside .zip and .tar files, and inside such files within them, read in place: nothing is unpacked to disk.

An archive inside another counts as a folder. Where it is stored as it is, it is a stretch of the outer file; where it
is compressed, it is unpacked into memory while it is read, one at a time.
"""

from pathlib import Path

from resnet_infer.data.formats.byte_ranges import FileWindow, Stretch, Unpacked, Window
from resnet_infer.data.formats.folders import ARCHIVE_SUFFIXES, Tree
from resnet_infer.data.formats.tar_file import header_crc, read_member, tar_members
from resnet_infer.data.formats.zip_file import MAX_BYTES, ZipEntry, ZipFile
from resnet_infer.data.samples import Sample, Strings
from resnet_infer.data.source import mixed
from resnet_infer.errors import DataError

MAX_DEPTH = 3
"""Archives within one another, the outermost counted."""
MAX_ARCHIVES = 100_000
"""Inside one file."""
MAX_UNPACKED_BYTES = 2**33
"""Of compressed archives inside one file, all together: each is unpacked once to list it. At a time, an archive and
those that it lies in have no more than MAX_BYTES."""
MAX_LISTED_BYTES = 2**28
"""Of names in archives inside one file, with 64 more for each, and a sixteenth of the file's size on top."""


class Archive:
    """Images in a .zip or .tar file and the archives inside it."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._archives: list[ZipFile | Window] = []
        """The file itself and those inside it; a zip file, or the window that a tar file is in."""
        self._unpacked: dict[int, Unpacked] = {}
        self._chains: dict[int, frozenset[int]] = {}
        """For every archive, the unpacked ones that it lies in, itself counted."""
        self.held_bytes = 0
        """That a process which reads keeps unpacked at most."""
        self._inside = 0
        self._listed = 0
        self._in_memory: frozenset[int] = frozenset()
        tree = Tree(3)
        file = FileWindow(str(path))
        self._written_ns = file.written_ns
        self._most_listed = MAX_LISTED_BYTES + file.size // 16
        self._list(tree, file, "", str(path), frozenset(), 1)
        self.samples = tree.samples()
        self.left_out: Strings = tree.left_out

    def read(self, sample: Sample) -> bytes:
        """The member's bytes; a zip's checksum is verified."""
        number, *place = sample.key
        archive = self._archives[number]
        self._let_go_of_all_but(self._chains[number])
        if isinstance(archive, ZipFile):
            return archive.read(archive.member(place[0]))
        if place[1] > MAX_BYTES:
            raise DataError(f"claims {place[1]:,} bytes in the tar file, over the limit of {MAX_BYTES:,}")
        return read_member(archive, (place[0], place[1]))

    def mark(self, sample: Sample) -> int:
        """Of the size and checksum in a zip's directory; in a tar file of the header, and when the file was written."""
        number, offset, last = sample.key
        archive = self._archives[number]
        if isinstance(archive, ZipFile):
            return mixed(last)
        if number in self._unpacked:  # the outer zip's checksum is of all that is in it
            return mixed(last, self._unpacked[number].crc)
        return mixed(last, header_crc(archive, offset), self._written_ns)

    def _list(self, tree: Tree, window: Window, prefix: str, where: str, chain: frozenset[int], depth: int) -> None:
        number = len(self._archives)
        self._chains[number] = chain
        if number >= MAX_ARCHIVES:
            raise DataError(f"{self.name}: more than {MAX_ARCHIVES:,} archives in it")
        inner: list[tuple[str, Window]] = []
        try:
            if where.lower().endswith(".zip"):
                archive = ZipFile(window)
                self._archives.append(archive)
                for position, member in archive.members():
                    self._count(prefix, member.name)
                    if not self._is_archive(member.name, where, depth):
                        known = min(member.size, MAX_BYTES + 1) << 32 | member.crc
                        tree.add(prefix + member.name, (number, position, known))
                    else:
                        inner.append((member.name, self._inner_window(archive, window, member, where, chain)))
            else:
                self._archives.append(window)
                for name, place in tar_members(window):
                    self._count(prefix, name)
                    if place is None or not self._is_archive(name, where, depth):
                        tree.add(prefix + name, (number, *place) if place else None)
                    else:
                        inner.append((name, Stretch(window, *place)))
        except DataError as error:
            raise error if str(error).startswith(self.name) else DataError(f"{where}: {error}") from error
        for name, inside in inner:
            own = chain
            if isinstance(inside, Unpacked):
                own = chain | {len(self._archives)}
                self._unpacked[len(self._archives)] = inside
                self.held_bytes = max(self.held_bytes, sum(self._unpacked[n].size for n in own))
            self._list(tree, inside, f"{prefix}{name}/", f"{where}/{name}", own, depth + 1)
            if isinstance(inside, Unpacked):
                inside.let_go()

    def _count(self, prefix: str, name: str) -> None:
        """Take account of a member's name where a small file can hold many, or long ones."""
        if prefix:
            self._listed += len(prefix) + len(name) + 64
            if self._listed > self._most_listed:
                raise DataError(
                    f"{self.name}: the names in its inner archives are over the limit of "
                    f"{self._most_listed:,} bytes; unpack the outermost"
                )

    def _is_archive(self, name: str, where: str, depth: int) -> bool:
        if not name.lower().endswith(ARCHIVE_SUFFIXES):
            return False
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part != "."):
            return False
        if depth >= MAX_DEPTH:
            raise DataError(f"{where}: archives in it are more than {MAX_DEPTH} deep, as {name}; unpack the outermost")
        return True

    def _inner_window(
        self, archive: ZipFile, window: Window, member: ZipEntry, where: str, chain: frozenset[int]
    ) -> Window:
        if member.method == 0 and not member.flags & 1:
            return Stretch(window, archive.begin(member), member.size)
        self._inside += member.size
        held = member.size + sum(self._unpacked[number].size for number in chain)
        if held > MAX_BYTES or self._inside > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{where}/{member.name}: {member.size:,} bytes are too many to unpack in memory; store it uncompressed "
                "(zip -0), or unpack the outer archive"
            )
        return Unpacked(member.size, _Unpacking(archive, member), member.crc)

    def _let_go_of_all_but(self, chain: frozenset[int]) -> None:
        """Keep one unpacked archive in memory and those it lies in: images come in the order of their archives."""
        for number in self._in_memory - chain:
            self._unpacked[number].let_go()
        self._in_memory = chain


class _Unpacking:
    """What unpacks a member; it travels to worker processes."""

    def __init__(self, archive: ZipFile, member: ZipEntry) -> None:
        self.archive = archive
        self.member = member

    def __call__(self) -> bytes:
        return self.archive.read(self.member)
