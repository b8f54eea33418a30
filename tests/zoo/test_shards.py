import hashlib
import json

import pytest
import safetensors.torch
import torch

from metanet.zoo import shards


def test_a_file_that_is_no_shard_is_refused(tmp_path):
    path = tmp_path / "0.safetensors"
    path.write_bytes((8).to_bytes(8, "little") + b"not JSON")
    with pytest.raises(ValueError, match="its header is not that of a safetensors file"):
        shards.load(path)
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="not written by metanet"):
        shards.load(path)


def test_a_shard_packed_twice_has_equal_bytes_and_keeps_the_order_of_names(tmp_path):
    tensors = {"b": torch.randn(2, 3), "a": torch.arange(2), "c": torch.randn(2)}
    data = shards.pack(tensors, {"step": 1})
    assert data == shards.pack(tensors, {"step": 1})
    (tmp_path / "1.safetensors").write_bytes(data)
    loaded, about = shards.load(tmp_path / "1.safetensors")
    assert list(loaded) == list(tensors)
    assert about["step"] == 1
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_nets_hash_depends_on_its_own_bytes_alone():
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(3)}
    other = {name: value.clone() for name, value in tensors.items()}
    other["b"][1] += 1
    first, second = shards.net_hashes(tensors), shards.net_hashes(other)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert shards.net_hashes({name: value[1:2] for name, value in tensors.items()}) == first[1:2]


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_are_those_that_safetensors_writes(seed):
    generator = torch.Generator().manual_seed(seed)
    names = ["w", "a.b", 'é\n"', "z", "0"]
    tensors = {}
    for dtype in shards._DTYPES:
        for name in names:
            shape = torch.randint(0, 4, (seed,), generator=generator).tolist()
            tensors[f"{name}{dtype}"] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    tensors = {name: tensors[name] for name in sorted(tensors, key=hash)} | {"t": torch.randn(3, 2).mT}
    about = {"step": 1, "arch": {"family": "mlp", "name": 'é"'}}
    note = json.dumps({**about, "names": list(tensors)}, sort_keys=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert shards.pack(tensors, about) == safetensors.torch.save(whole, {"metanet": note})


def test_large_nets_are_hashed_as_small_ones_are(monkeypatch: pytest.MonkeyPatch):
    tensors = {"b": torch.randn(5, 2, 3), "a": torch.arange(5), "c": torch.randn(5, 0)}
    together = shards.net_hashes(tensors)
    for size in (0, 40):
        monkeypatch.setattr(shards, "_SMALL_BYTES", size)
        assert shards.net_hashes(tensors) == together
    own = tensors["a"][3].numpy().tobytes() + tensors["b"][3].numpy().tobytes()
    assert together[3] == hashlib.sha256(own).hexdigest()


def test_the_sum_of_a_tensor_changes_with_any_bit():
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(3)}
    before = shards.tensor_sums(tensors)
    for name, bits in (("a", 32), ("b", 64)):
        for bit in range(bits):
            other = {one: tensor.clone() for one, tensor in tensors.items()}
            words = other[name].view(torch.int32 if bits == 32 else torch.int64).view(-1)
            words[1] ^= 1 << bit if bit < bits - 1 else -(1 << bit)
            after = shards.tensor_sums(other)
            assert [one for one in before if before[one] != after[one]] == [name]
