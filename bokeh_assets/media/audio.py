"""Sound tracks from the source into the result."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

# What mp4 holds and players play. PCM and Vorbis could be written but hardly anything opens them.
COPIED = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac"})
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_USUAL = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_AAC_BITS_PER_CHANNEL = 128_000


class AudioCarrier:
    """Carry all sound tracks of a source over, a little at a time, so that they interleave with the picture.

    Packets are copied bit by bit where mp4 can hold the codec, otherwise decoded and encoded as AAC. `reports` says
    which, one line per track.

    Args:
        source: the open source; it is read here and must not be read elsewhere.
        result: the open result, before its first packet.
        origin: seconds of the source that are 0 in the result.
    """

    def __init__(self, source: InputContainer, result: OutputContainer, origin: Fraction) -> None:
        self._result, self._origin = result, origin
        self.reports: list[str] = []
        self._tracks: dict[int, _Copied | _Encoded] = {}
        tracks: list[AudioStream] = []
        for stream in source.streams.audio:
            if stream.codec_context is None:
                self.reports.append(f"track {len(self.reports)}: unknown codec, left out")
                continue
            codec = stream.codec_context.codec.canonical_name
            number = len(self.reports)
            if codec in COPIED:
                self._tracks[stream.index] = _Copied(stream, result)
                self.reports.append(f"track {number}: {codec} copied")
            else:
                self._tracks[stream.index] = _Encoded(stream, result)
                self.reports.append(f"track {number}: {codec} encoded as aac, as mp4 players do not take {codec}")
            tracks.append(stream)
        self._packets = self._read(source, tracks)
        self._next: Packet[AudioStream] | None = next(self._packets, None)

    def advance(self, until: Fraction | None) -> None:
        """Write all packets up to a time of the source in seconds (None: all there are)."""
        while self._next is not None:
            packet = self._next
            stamp = packet.dts if packet.dts is not None else packet.pts
            if until is not None and stamp is not None and stamp * packet.time_base > until:
                return
            self._tracks[packet.stream_index].write(packet, self._result, self._origin)
            self._next = next(self._packets, None)
        if until is None:
            for track in self._tracks.values():
                track.finish(self._result)
            self._tracks = {}

    def _read(self, source: InputContainer, tracks: list[AudioStream]) -> Iterator[Packet[AudioStream]]:
        if not tracks:
            return
        packets = source.demux(*tracks)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.reports.append("the sound is cut short: the source is truncated or damaged")
                return
            if packet.has_sidedata("encryption_info"):
                self.reports.append("the sound is encrypted and was left out")
                return
            if packet.size:
                yield cast("Packet[AudioStream]", packet)


def audio_start(source: InputContainer) -> Fraction | None:
    """When the first sound is heard, in seconds of the source; None without sound."""
    starts = [s.start_time * s.time_base for s in source.streams.audio if s.start_time is not None and s.time_base]
    return min(starts) if starts else None


class _Copied:
    def __init__(self, stream: AudioStream, result: OutputContainer) -> None:
        self._stream = result.add_stream_from_template(stream)
        _carry_tags(stream, self._stream)

    def write(self, packet: Packet[AudioStream], result: OutputContainer, origin: Fraction) -> None:
        shift = round(origin / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        packet.stream = self._stream
        result.mux(packet)

    def finish(self, result: OutputContainer) -> None:
        pass


class _Encoded:
    def __init__(self, stream: AudioStream, result: OutputContainer) -> None:
        context = stream.codec_context
        rate = next((r for r in _AAC_RATES if r <= context.sample_rate), _AAC_RATES[-1])
        self._stream = result.add_stream("aac", rate=rate)
        # A file that only counts its channels means the usual places of so many.
        layout = _USUAL.get(context.channels, "stereo") if "channel" in context.layout.name else context.layout.name
        self._stream.codec_context.layout = layout
        self._stream.bit_rate = _AAC_BITS_PER_CHANNEL * context.channels
        self._stream.codec_context.thread_count = 1
        self._resampler = AudioResampler("fltp", layout, rate)
        _carry_tags(stream, self._stream)

    def write(self, packet: Packet[AudioStream], result: OutputContainer, origin: Fraction) -> None:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(origin / frame.time_base)
            for resampled in self._resampler.resample(frame):
                result.mux(self._stream.encode(resampled))

    def finish(self, result: OutputContainer) -> None:
        for resampled in self._resampler.resample(None):
            result.mux(self._stream.encode(resampled))
        result.mux(self._stream.encode(None))


def _carry_tags(source: AudioStream, result: AudioStream) -> None:
    if source.language:
        result.metadata["language"] = source.language
    result.disposition = source.disposition
