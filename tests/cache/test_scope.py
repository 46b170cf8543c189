"""Keys of scopes: what makes a difference, and whose they are."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from underpaint.cache.scope import ImageScope, LatentsScope, tenant_of
from underpaint.errors import InvalidArgument
from underpaint.requests import check_tenant

IMAGE = ImageScope("acme", "e1", 64, 64, "blurry", ("lora:a:0.5", "lora:b:1"))
LATENTS = LatentsScope("acme", "e1", "w1", "ddim", 50, 64, 64, "float32", 7.5, "blurry", ("lora:a:0.5",))
OTHER = {str: "other", int: 128, float: 1.25, tuple: ("lora:c:1",)}


def changed(value: Any) -> Any:
    return OTHER[type(value)]


@pytest.mark.parametrize("scope", [IMAGE, LATENTS], ids=["image", "latents"])
def test_every_field_makes_a_difference(scope: ImageScope | LatentsScope) -> None:
    others = [replace(scope, **{f.name: changed(getattr(scope, f.name))}) for f in fields(scope)]
    keys = {scope.key(), *(other.key() for other in others)}
    assert len(keys) == 1 + len(fields(scope))


def test_a_key_is_the_tenant_and_sixteen_hex_digits() -> None:
    tenant, digits = IMAGE.key().split("/")
    assert tenant == "acme"
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert tenant_of(IMAGE.key()) == tenant_of(LATENTS.key()) == "acme"


def test_keys_stay_the_same_from_release_to_release() -> None:
    """Stores outlive releases: a key that changes loses all that was painted."""
    assert IMAGE.key() == "acme/2c6696a8fceaaf6d"
    assert LATENTS.key() == "acme/d16fb26768e4181c"


def test_the_order_of_add_ons_and_the_type_of_a_number_do_not_matter() -> None:
    assert replace(IMAGE, add_ons=IMAGE.add_ons[::-1]).key() == IMAGE.key()
    assert replace(LATENTS, guidance_scale=7).key() == replace(LATENTS, guidance_scale=7.0).key()


@pytest.mark.parametrize("tenant", ["a", "A.b_c-9", "x" * 64, "9"])
def test_a_tenant_may_be(tenant: str) -> None:
    assert check_tenant(tenant) == tenant


@pytest.mark.parametrize("tenant", ["", "x" * 65, "a/b", "a b", "a\n", "ä", "a\x00", "..", "-a", None, 3])
def test_a_tenant_may_not_be(tenant: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"tenant: got .*; allowed: 1 to 64 of "):
        check_tenant(tenant)
    if isinstance(tenant, str):
        with pytest.raises(InvalidArgument, match="tenant: got"):
            replace(IMAGE, tenant=tenant).key()


@pytest.mark.parametrize("key", ["", "acme", "acme/", "acme/0123", "a b/0123456789abcdef", f"{IMAGE.key()}0"])
def test_what_is_no_key_belongs_to_nobody(key: str) -> None:
    with pytest.raises(InvalidArgument, match="scope: got"):
        tenant_of(key)
