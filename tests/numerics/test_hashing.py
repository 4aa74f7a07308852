from hapo_lit.numerics.hashing import stable_hash, stable_int


def test_it_is_blake2b():
    # the first bytes of BLAKE2b-64 and BLAKE2b-32 of "abc", from another implementation (b2sum -l)
    assert stable_hash("abc").hex() == "d8bb14d833d59559"
    assert stable_hash(b"abc", 4).hex() == "63906248"
    assert stable_int("abc") == 0xD8BB14D833D59559
    assert stable_hash("ü") == stable_hash("ü".encode())
