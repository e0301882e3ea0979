"""The text by whose activations `auto` weighs errors: prose, questions, code, tables, and a little of many languages.

Written for this and for nothing else. Pieces of all of it are read (`calibration.spread`); what becomes of the weights
hangs on every letter.
"""

TEXT = """\
The lighthouse keeper wrote in his log that the storm had passed at four in the morning. Two fishing boats had lost
their nets, and a third, the Marianne, had come home with a broken mast but all of her crew. "We were lucky," the
captain said. "The wind turned before the tide did." By noon the harbour was quiet again, except for the gulls and
the hammering from the boatyard.

Photosynthesis is the process by which plants, algae and some bacteria turn light into chemical energy. In the
leaves of a plant, chlorophyll absorbs mostly red and blue light. Water is split into oxygen, protons and electrons;
the oxygen is released, and the energy is stored in molecules such as ATP and NADPH, which are then used to build
sugars from carbon dioxide. About half of all photosynthesis on Earth takes place in the oceans.

Question: A train leaves at 9:40 and arrives at 13:05. How long does the journey take? Answer: From 9:40 to 13:00 is
3 hours and 20 minutes, and 5 more minutes make 3 hours and 25 minutes. If the distance is 287 km, the average speed
is 287 / 3.4167 = 84 km/h.

```python
import json
from pathlib import Path

def load_settings(path: Path, defaults: dict[str, int]) -> dict[str, int]:
    # Values that are missing come from the defaults.
    settings = dict(defaults)
    try:
        with path.open(encoding="utf-8") as file:
            for key, value in json.load(file).items():
                if not isinstance(value, int):
                    raise TypeError(f"{key} should be an integer, got {type(value).__name__}")
                settings[key] = value
    except FileNotFoundError:
        pass
    return settings

if __name__ == "__main__":
    print(load_settings(Path("settings.json"), {"width": 80, "height": 24}))
```

Die Bibliothek liegt am Rand der Altstadt, gleich neben dem Fluss. Im Sommer sitzen die Studenten auf den Stufen und
lesen, im Winter drängen sie sich um die wenigen Tische am Fenster. Seit dem Umbau gibt es einen zweiten Lesesaal,
der auch am Sonntag geöffnet ist.

Le marché commence à six heures, quand la place est encore dans l'ombre. On y trouve des tomates, du fromage de
chèvre, du pain et des fleurs. « Goûtez, madame, c'est la dernière semaine des cerises ! » À midi, tout est fini et
les pigeons ramassent les miettes.

El tren llegó con media hora de retraso, pero a nadie pareció importarle. Los niños jugaban en el andén, una mujer
vendía naranjas y el jefe de estación leía el periódico. ¿Quién tiene prisa en un pueblo donde el reloj de la torre
lleva años parado?

Il professore spiegò che la luce viaggia a circa 300.000 chilometri al secondo. Para chegar da Terra à Lua, ela
precisa de pouco mais de um segundo. Свет от Солнца идёт до Земли около восьми минут.
太陽の光が地球に届くまで約八分かかります。从太阳到地球的距离约为一亿五千万公里。
서울은 한국의 수도이고 한강이 도시를 가로지른다.
تشرق الشمس من الشرق وتغرب في الغرب. सूरज पूरब में उगता है।

User: Can you suggest a simple dinner for two people?
Assistant: Of course! Here is an idea that takes about 25 minutes:

1. Cook 200 g of pasta in salted water.
2. Fry two cloves of garlic and a chopped chilli in olive oil for one minute.
3. Add 250 g of cherry tomatoes, cut in half, and let them soften for eight minutes.
4. Mix everything with a handful of basil and some grated cheese.

User: I am allergic to garlic. What could I use instead?
Assistant: You can leave it out and add a small onion or
the white part of a leek. A little lemon zest at the end also works well.

| year | visitors | change |
|------|---------:|-------:|
| 2019 |   41,230 |      - |
| 2020 |   12,875 | -68.8% |
| 2021 |   29,410 | 128.4% |

function debounce(callback, delay = 250) {
  let timer = null;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...args), delay);
  };
}

SELECT customer.name, COUNT(*) AS orders, SUM(total) AS revenue FROM orders
JOIN customer ON customer.id = orders.customer_id WHERE orders.placed >= '2024-01-01' GROUP BY customer.name HAVING
COUNT(*) > 3;

<ul class="menu"><li><a href="/about">About us</a></li><li><a href="/contact">Contact</a></li></ul>

Let f(x) = x^2 - 4x + 3. Its roots are x = 1 and x = 3, since f(x) = (x - 1)(x - 3), and its minimum lies at x = 2,
where f(2) = -1. The area under the curve between 1 and 3 is therefore negative: the integral equals -4/3.

Dear Ms Okafor, thank you for your letter of 3 May. We are sorry that your parcel arrived late. The delay was caused
by a strike at the port, which has since ended. Please find enclosed a voucher for your next order. Yours sincerely,
Thomas Lindqvist

In 1869 Dmitri Mendeleev arranged the known elements by their atomic weight and left gaps where he expected others
to be found. Within twenty years gallium, scandium and germanium had filled three of them, with properties close to
those that he had predicted. Scientists were impressed less by the order of what was known than by the courage to
say what was missing.

Once upon a time there was a tailor who could sew anything except a straight line. His coats leaned to the left, his
trousers to the right, and yet the whole town wore them, because nobody else made such deep pockets. One day the
king asked for a cloak without a single crooked seam. The tailor thought about it for three nights. Then he brought
the king a round cloak, which had only one seam, and it went all the way around.
"""
