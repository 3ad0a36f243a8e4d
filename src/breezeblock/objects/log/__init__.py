"""Layout *log*: a volume as a sequence of immutable segments, and a map of where each page lies.

    v/<volume>/seg/<number>           what was written, in order: up to 1,024 pages of 4 KiB
    v/<volume>/leaf/<ref>             a part of the map: where the pages of 1 GiB lie
    v/<volume>/root/<epoch>-<number>  leaves, and the number from which segments follow them
    v/<volume>/snap/<name>            the same, held for ever: a snapshot
    v/<volume>/new/<name>             a snapshot that is being taken
    gc/<number>                       what a collection found to be nobody's

Nothing is ever changed in place and all is created by create-only puts, so after any crash the volume is
what a prefix of its writes made it: the newest root and the segments that follow it without a gap.

A writer begins by claiming the first number that is not taken with a *fence*, a segment without data.
Whoever wrote before meets it as its next create, and stops; as it acknowledges nothing beyond a gap, what
lies behind the fence was never promised. The fence's number is the writer's *epoch*.
"""
