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
