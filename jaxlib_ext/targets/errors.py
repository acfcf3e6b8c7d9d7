"""What can go wrong beside a ValueError: a package that is not installed, a program that does not fit."""


class MissingPackage(ImportError):
    """The compiler for a target is not installed; the message says what to install."""


class OutOfMemory(RuntimeError):
    """The program does not fit into the memory of one device.

    needed, available: bytes per device, as the compiler states them. detail: the compiler's own words.
    """

    def __init__(self, target: str, needed: int, available: int, detail: str = ""):
        self.target, self.needed, self.available, self.detail = target, needed, available, detail
        figures = f"{needed / 2**30:.2f} GiB needed per device, {available / 2**30:.2f} GiB available"
        super().__init__(f"out of memory on {target}: {figures}")
