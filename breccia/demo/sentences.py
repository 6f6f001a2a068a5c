"""The sentences that the demo embeds: sixteen subjects, three sentences on each, so that near neighbours are known."""

from __future__ import annotations

_BY_SUBJECT: tuple[tuple[str, str, str], ...] = (
    (
        "The old lighthouse guided ships through the fog.",
        "Sailors relied on the beacon when mist covered the coast.",
        "A lamp on the cliff kept boats off the rocks at night.",
    ),
    (
        "She baked a loaf of sourdough bread this morning.",
        "The kitchen smelled of fresh dough and warm crust.",
        "He kneads flour, water and salt before the oven is hot.",
    ),
    (
        "The central bank raised interest rates by half a point.",
        "Borrowing became more expensive after the policy meeting.",
        "Mortgage payments climbed as lending rates went up.",
    ),
    (
        "The telescope recorded light from a distant galaxy.",
        "Astronomers measured how fast remote stars move away from us.",
        "A faint smudge in the night sky turned out to be billions of suns.",
    ),
    (
        "The goalkeeper saved a penalty in the last minute.",
        "Our team won the match after a late goal.",
        "Fans cheered as the striker sent the ball into the net.",
    ),
    (
        "Doctors recommend a vaccine before the winter season.",
        "The nurse gave every patient an injection against the flu.",
        "Immunisation protects older people from serious infection.",
    ),
    (
        "The program crashed because a pointer was null.",
        "A debugger showed where the software read invalid memory.",
        "The engineer fixed a bug that stopped the server.",
    ),
    (
        "Heavy rain flooded the streets of the valley.",
        "The river burst its banks after two days of storms.",
        "Families left their homes as the water rose.",
    ),
    (
        "The violinist tuned her instrument before the concert.",
        "An orchestra played a symphony to a full hall.",
        "The pianist practised the slow movement for weeks.",
    ),
    (
        "Bees carry pollen from one flower to the next.",
        "The gardener planted lavender to attract insects.",
        "Without pollinators the orchard would bear no fruit.",
    ),
    (
        "The train to the capital leaves at seven.",
        "Commuters waited on the platform for the delayed express.",
        "He missed his railway connection by two minutes.",
    ),
    (
        "The court found the defendant not guilty.",
        "A judge dismissed the case for lack of evidence.",
        "The lawyer asked the jury to consider the witness again.",
    ),
    (
        "Children learn to read by sounding out letters.",
        "The teacher wrote new words on the blackboard.",
        "Pupils in the first class practise spelling every day.",
    ),
    (
        "The volcano erupted and covered the island in ash.",
        "Lava flowed down the mountain towards the sea.",
        "Geologists warned that the crater might explode again.",
    ),
    (
        "A cat slept on the warm windowsill.",
        "The kitten curled up in the sun and purred.",
        "Our old tabby likes to nap beside the heater.",
    ),
    (
        "The museum bought a painting from the seventeenth century.",
        "Visitors admired the portrait in the new gallery.",
        "A restorer cleaned the canvas and found the artist's signature.",
    ),
)  # fmt: skip

SENTENCES: tuple[str, ...] = tuple(sentence for group in _BY_SUBJECT for sentence in group)
"""Sentences 3 * i to 3 * i + 2 share a subject."""

PER_SUBJECT = 3
