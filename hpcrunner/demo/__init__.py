"""The main job on embedded defaults: three sample experiments, no server needed."""
