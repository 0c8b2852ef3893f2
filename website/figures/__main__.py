from website.figures import CONCEPTS, DRAWINGS

for name, draw in DRAWINGS.items():
    (CONCEPTS / f"{name}.svg").write_text(draw() + "\n", encoding="utf-8")
