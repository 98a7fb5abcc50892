"""Where an image path of the registry leads."""

from __future__ import annotations

import pytest

from shared.windows.reading import driver_path

FILE = "Windows\\System32\\drivers\\viostor.sys"


@pytest.mark.parametrize(
    "image",
    [
        "",
        "System32\\drivers\\viostor.sys",
        "\\SystemRoot\\System32\\drivers\\viostor.sys",
        "%SystemRoot%\\System32\\drivers\\viostor.sys",
        "\\??\\C:\\Windows\\System32\\drivers\\viostor.sys",
        "system32/drivers/viostor.sys",
    ],
)
def test_every_way_to_write_it_is_one_file(image: str) -> None:
    assert driver_path("viostor", image).lower() == FILE.lower()


def test_a_driver_may_lie_in_the_driver_store() -> None:
    image = "\\SystemRoot\\System32\\DriverStore\\FileRepository\\x_1\\x.sys"
    assert driver_path("x", image) == "Windows\\System32\\DriverStore\\FileRepository\\x_1\\x.sys"
