import jax
import numpy as np
from core_toys import same_leaves

from proco_jax.common.random_streams import Stream, stream_key, stream_keys


def test_stream_numbers_are_distinct():
    # An enum would silently make two names of one number aliases.
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)


def test_keys_of_all_streams_and_seeds_are_pairwise_distinct():
    keys = [jax.random.key_data(stream_keys(0, 21, stream)) for stream in Stream]
    rows = np.concatenate([np.asarray(x) for x in keys])
    assert rows.shape == (21 * len(Stream), 2)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_seeds_keep_their_keys_whatever_their_number():
    few, many = stream_keys(3, 2, Stream.TRAINING), stream_keys(0, 6, Stream.TRAINING)
    same_leaves(few, many[3:5])
    same_leaves(stream_key(3, Stream.TRAINING), few[0])
