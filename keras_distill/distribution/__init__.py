"""Replicas and workers under `tf.distribute`."""
