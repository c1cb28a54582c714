"""Sentences of a reasoner that was given a description of a picture, handwritten before the polisher.

A line is 'as written => as it should read'. '=' after the arrow: the sentence must not change and no reference remains.
'?' after the arrow: this cannot be rewritten; the row must be dropped.
"""

from __future__ import annotations

SUBJECTS = """
The description says that the ball is red. => The image shows that the ball is red.
The description says the ball is red. => The image shows the ball is red.
The description says there are three bars. => The image shows there are three bars.
The description mentions a red cube on the left. => The image shows a red cube on the left.
The description states that AB = 5. => The image shows that AB = 5.
The description stated that AB = 5. => The image showed that AB = 5.
The description said the fence is white. => The image showed the fence is white.
The description has said that twice. => The image has shown that twice.
The description notes two dogs near the gate. => The image shows two dogs near the gate.
The description specifies that angle C is right. => The image shows that angle C is right.
The description tells us that the clock reads 3:40. => The image shows us that the clock reads 3:40.
The description tells me about a small boat. => The image shows me a small boat.
The description describes a rectangle with a diagonal. => The image shows a rectangle with a diagonal.
The description describes how the lines meet. => The image shows how the lines meet.
The description described a square. => The image showed a square.
The description reports a value of 40.1 for 2019. => The image shows a value of 40.1 for 2019.
The description claims that the lines are parallel. => The image shows that the lines are parallel.
The description reads "EXIT" above the door. => The image shows "EXIT" above the door.
The description points out that the lid is open. => The image shows that the lid is open.
The description refers to a green triangle. => The image shows a green triangle.
The description talks about four windows. => The image shows four windows.
The description shows a red ball. => The image shows a red ball.
The description depicts a street. => The image depicts a street.
The description indicates that x is positive. => The image indicates that x is positive.
The description gives the radius as 5. => The image gives the radius as 5.
The description includes a legend. => The image includes a legend.
The description has no scale. => The image has no scale.
The description is of a triangle. => The image is of a triangle.
The description is ambiguous here. => The image is ambiguous here.
The caption says that the man is cooking. => The image shows that the man is cooking.
The caption mentions snow. => The image shows snow.
The captions say different things. => The images show different things.
The descriptions state that both are blue. => The images show that both are blue.
This description says that k = 2. => This image shows that k = 2.
That description mentions a lamp. => That image shows a lamp.
Your description says the sky is grey. => The image shows the sky is grey.
The user's description states that it is noon. => The image shows that it is noon.
Our description says nothing about depth. => The image shows nothing of depth.
The image description says that the cup is empty. => The image shows that the cup is empty.
The picture description mentions two cats. => The image shows two cats.
The provided description states the height is 7 cm. => The provided image shows the height is 7 cm.
The given description says that O is the centre. => The given image shows that O is the centre.
The detailed description lists the yearly values. => The image lists the yearly values.
The textual description says B is farther. => The image shows B is farther.
The text description says B is farther. => The image shows B is farther.
The description clearly says that D lies on AB. => The image clearly shows that D lies on AB.
The description also mentions a bench. => The image also shows a bench.
The description then goes on to say that the roof is flat. => The image then goes on to show that the roof is flat.
The description explicitly states that there are 12 tiles. => The image explicitly shows that there are 12 tiles.
The description doesn't say whether it is closed. => The image doesn't show whether it is closed.
The description does not mention a fifth bar. => The image does not show a fifth bar.
The description didn't mention any tree. => The image didn't show any tree.
The description never states the length of BC. => The image never shows the length of BC.
The description seems to say that they touch. => The image seems to show that they touch.
The description might be saying that they touch. => The image might be showing that they touch.
The description would have mentioned a fourth one. => The image would have shown a fourth one.
The description says so. => The image shows it.
The description says nothing about the back row. => The image shows nothing of the back row.
The description mentions nothing about shoes. => The image shows nothing of shoes.
The description makes no mention of a door. => The image shows no sign of a door.
The description says otherwise. => The image shows otherwise.
The description says: "12 apples". => The image shows: "12 apples".
The description, which says that X is 3, fits. => The image, which shows that X is 3, fits.
The description that says 5 must count the lid. => The image that shows 5 must count the lid.
What does the description say about angle A? => What does the image show about angle A?
Does the description mention a hat? => Does the image show a hat?
If the description says 8, then the sum is 20. => If the image shows 8, then the sum is 20.
Wait, the description says that M is the midpoint. => Wait, the image shows that M is the midpoint.
Hmm, but the description states it is 6. => Hmm, but the image shows it is 6.
So the description, as far as I can tell, is complete. => So the image, as far as I can tell, is complete.
The description provided states the slices are equal. => The image provided shows the slices are equal.
The description given is that there is a ring. => The image shows that there is a ring.
Description says there's a cup. => The image shows there's a cup.
The original description says it is left. => The image shows it is left.
THE DESCRIPTION SAYS STOP. => THE IMAGE SHOWS STOP.
"""

ADJUNCTS = """
According to the description, the car is parked. => According to the image, the car is parked.
According to the caption, it is raining. => According to the image, it is raining.
From the description, there are 4 circles. => From the image, there are 4 circles.
Based on the description, AB is the diameter. => Based on the image, AB is the diameter.
In the description, the left bar is taller. => In the image, the left bar is taller.
Per the description, the total is 90. => In the image, the total is 90.
As per the description, the total is 90. => In the image, the total is 90.
Going by the description, it is a trapezoid. => Going by the image, it is a trapezoid.
Judging from the description, they overlap. => Judging from the image, they overlap.
Given the description, option B is out. => Given the image, option B is out.
Looking at the description, I count 6. => Looking at the image, I count 6.
The answer, according to the description, is 5. => The answer, according to the image, is 5.
There's no description of the roof. => There's no sign of the roof.
I'm given a description of an image with a pie chart. => I'm given an image with a pie chart.
According to what's described, the line is steep. => According to what's shown, the line is steep.
In the image described, the man holds a cup. => In the image shown, the man holds a cup.
There are two dogs in the description. => There are two dogs in the image.
There is no mention of a cat in the description. => There is no sign of a cat in the image.
No mention of water in the caption. => No sign of water in the image.
The radius from the description is 4. => The radius from the image is 4.
In the description, it says that AB = 3. => The image shows that AB = 3.
In the description it says the angle is 40 degrees. => The image shows the angle is 40 degrees.
In the caption, it states that the shop is closed. => The image shows that the shop is closed.
I take the numbers from the provided description. => I take the numbers from the provided image.
We only have a description of the scene. => We only have the scene.
We have a detailed description here. => We have an image here.
This follows from a description such as this. => This follows from an image such as this.
The point is at (3, 4) in the description. => The point is at (3, 4) in the image.
It matches the description. => It matches the image.
That contradicts the description. => That contradicts the image.
Let me check the description again. => Let me check the image again.
Let me go back to the description. => Let me go back to the image.
Let me re-read the description. => Let me look at the image again.
Let me reread the description carefully. => Let me look at the image again carefully.
Re-reading the description, I count five. => Looking at the image again, I count five.
Reading the description, I see five. => Looking at the image, I see five.
I should read the description once more. => I should look at the image once more.
I've read the description twice. => I've looked at the image twice.
I read the description too fast. => I looked at the image too fast.
The picture of it, by the description, is simple. => ?
Using the description, the base is 9. => Using the image, the base is 9.
With the description in mind, the shape is a kite. => With the image in mind, the shape is a kite.
"""

PARTICIPLES = """
As described, the ball is red. => As shown, the ball is red.
The ball is red, as described. => The ball is red, as shown.
The triangle, as described, is isosceles. => The triangle, as shown, is isosceles.
As described above, the ball is red. => As shown above, the ball is red.
As described in the description, the ball is red. => As shown in the image, the ball is red.
As mentioned in the description, there are 3 cups. => As shown in the image, there are 3 cups.
As stated in the caption, the year is 2009. => As shown in the image, the year is 2009.
As noted in the image description, it is closed. => As shown in the image, it is closed.
As the description says, the box is open. => As the image shows, the box is open.
As the description mentions, the box is open. => As the image shows, the box is open.
As described in the image, the road bends. => As shown in the image, the road bends.
As you described, the road bends. => As shown, the road bends.
The ball is described as red. => The ball is shown as red.
The lines are described as parallel. => The lines are shown as parallel.
The angle was described as right. => The angle was shown as right.
The point has been described as fixed. => The point has been shown as fixed.
The cubes are described to be equal. => The cubes are shown to be equal.
The image is described as showing a cat. => The image shows a cat.
The picture is described as a street scene. => The picture shows a street scene.
The figure is described as having two axes. => The figure has two axes.
The image is described as depicting rain. => The image depicts rain.
No other object is described. => No other object is shown.
It is described that the lines meet. => It is shown that the lines meet.
It is stated in the description that the lines meet. => It is shown in the image that the lines meet.
It is mentioned in the caption that it is late. => It is shown in the image that it is late.
The radius mentioned in the description is 5. => The radius shown in the image is 5.
The values listed in the description add up to 12. => The values shown in the image add up to 12.
The length given in the description is 8 m. => The length given in the image is 8 m.
The tower described in the caption leans. => The tower shown in the image leans.
The objects described above are all blue. => The objects shown above are all blue.
The objects described are all blue. => The objects shown are all blue.
The described triangle has a right angle. => The depicted triangle has a right angle.
In the described scene, two boats float. => In the depicted scene, two boats float.
What is described is a regular hexagon. => What is shown is a regular hexagon.
From what is described, it is a hexagon. => From what is shown, it is a hexagon.
The image as described has four sides. => The image as shown has four sides.
The bar is not mentioned in the description. => The bar is not shown in the image.
The colour isn't specified in the description. => The colour isn't shown in the image.
I am told that the door is open. => I see that the door is open.
I'm told there are 7 pens. => I see there are 7 pens.
I was told that the base is 4. => I saw that the base is 4.
From what I was told, the base is 4. => From what I saw, the base is 4.
We are told in the description that it is hot. => We see in the image that it is hot.
I was given a description of a square. => I was given a picture of a square.
"""

NESTED = """
The description says that the image shows a cat. => The image shows a cat.
The description says the image shows a cat. => The image shows a cat.
The description states that the picture depicts a street. => The picture depicts a street.
The caption says that this image has two dogs. => This image has two dogs.
The description mentions that the figure shows a circle. => The figure shows a circle.
The description says that in the image there is a cup. => In the image there is a cup.
According to the description, the image shows a cat. => The image shows a cat.
Based on the description, the picture contains 3 pens. => The picture contains 3 pens.
From the caption, this photo shows a lake. => This photo shows a lake.
The description of the image says that it is dark. => The image shows that it is dark.
The description of the chart says 40 for May. => The chart shows 40 for May.
The description of the figure mentions a chord. => The figure shows a chord.
The description of the triangle says that AB = AC. => The picture of the triangle shows that AB = AC.
The description of this graph shows a peak. => This graph shows a peak.
In the description of the scene, a man waves. => In the scene, a man waves.
The image's description says that it is dark. => The image shows that it is dark.
The description shows depicts a house. => The image shows a house.
The image depicts shows a house. => The image depicts a house.
The description displays displays two rows. => The image displays two rows.
The description is clear. It says AB is 5. => The image is clear. It shows AB is 5.
I trust the caption. It mentions two hats. => I trust the image. It shows two hats.
So, the description says that the chart shows 5 bars. => So, the chart shows 5 bars.
the description says that the image shows a cat => the image shows a cat
"""

KEPT = """
The question says that AB = 5. => =
The problem states that the car is red. => =
The problem description says that AB = 5. => =
We are told that AB = 5. => =
As stated in the problem, x is an integer. => =
As mentioned earlier, x is an integer. => =
The motion is described by the equation above. => =
A function is said to be even if f(-x) = f(x). => =
The path is described using polar coordinates. => =
It matches the description of a rhombus. => =
The job description asks for two years. => =
The sign says "No entry". => =
The label on the jar reads 250 g. => =
The caption below the photo reads "Harbour". => =
The caption under the figure says Fig. 2. => =
Option A describes the graph best. => =
The image shows a red ball. => =
As shown in the image, the ball is red. => =
The text in the image says SALE. => =
It says "open" on the door. => =
Let me describe the steps first. => =
`the description says` is a string here. => =
The code prints ```the description says 5``` and stops. => =
So $\\text{the description says } x = 5$ holds. => =
I mentioned above that x = 3. => =
She told me that that is fine. => =
"""

LEFT = """
I cannot see the image, so I guess. => ?
Since I can't see the picture, I rely on words. => ?
Without seeing the image, this is hard. => ?
I don't have access to the image. => ?
No image was provided, so I guess. => ?
If I could see the figure, I would count them. => ?
As a language model I only get text. => ?
The wording of the description is odd. => ?
The description's phrasing suggests 5. => ?
There may be a typo in the description. => ?
Whoever wrote the description missed a line. => ?
The image and its description do not agree. => ?
The image and the description do not agree. => ?
The image matches the description. => ?
As the description puts it, the car is red. => ?
Both descriptions agree. => ?
Its description is short. => ?
The author of the caption may be wrong. => ?
The user describes a house with a red roof. => ?
You described a house with a red roof. => ?
The description calls it a square. => ?
I am not able to view the image. => ?
The second sentence of the description is about the roof. => ?
The description is worded badly. => ?
"""


def pairs(table: str) -> list[tuple[str, str]]:
    """(as written, right-hand side) of each line."""
    lines = [line for line in table.strip().splitlines() if line]
    return [(left, right) for left, _, right in (line.partition(" => ") for line in lines)]


MENDED = [pair for table in (SUBJECTS, ADJUNCTS, PARTICIPLES, NESTED) for pair in pairs(table) if pair[1] != "?"]
UNTOUCHED = [left for left, _ in pairs(KEPT)]
UNMENDABLE = [
    left for table in (SUBJECTS, ADJUNCTS, PARTICIPLES, NESTED, LEFT) for left, right in pairs(table) if right == "?"
]
ALL = [left for left, _ in MENDED] + UNTOUCHED + UNMENDABLE
