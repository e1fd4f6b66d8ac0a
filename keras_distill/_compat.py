"""Private names of Keras, TensorFlow and KerasTuner that the package uses."""
