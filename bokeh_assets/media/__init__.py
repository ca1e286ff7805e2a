"""Video files in and out, and frames between. Importing this package loads nothing; take names from their modules:

| module | what for |
| --- | --- |
| `probe` | `probe(path)`: what a file is |
| `decode` | `decode(path)`: its frames, upright, square pixels, SDR, with their times |
| `extract` | `extract_frames(source, folder)`: frames, times and shots into a folder, in one pass |
| `timing` | `read_timing(path)`: the table of frames again |
| `frames` | `Frames`, `FrameFolder`, `MapFolder`, `spooled`, `write_picture`: what engines read and write |
| `shots` | `ShotDetector`, `shots(frames)`: cuts |
| `encode` | `encode(frames, out, timing=…, source=…)`: a video again, with the source's times, sound and tags |
| `presentation` | `read_presentation(path)`: when a finished video shows each frame |
| `confined` | the same functions for files of strangers, each in a bound process of its own |
| `samples` | `make_sample(path)`: a clip to try things on |

Inside: `container` (opening a file safely), `colour` (tags, YCbCr to RGB), `hdr` (tone mapping), `audio` (sound),
`confined_child` and `sandbox` (that process and what binds it), `sample_scene` (the drawing of the sample clip).
"""
