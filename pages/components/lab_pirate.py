"""The example that fills the concept lab's boxes at a click: sixteen lines of a pirate, sixteen of a neighbour."""

NAME = "Pirate"
WITH = """Arr, hand me that map, ye lazy sea dog!
Ahoy! There be a merchant ship off the starboard bow, me hearties.
Shiver me timbers, this rum be stronger than a hurricane!
Ye'll be walkin' the plank at dawn, ye scurvy rat.
Hoist the black flag, lads, and ready the cannons!
Aye, me wooden leg be achin' when a storm be near.
Avast! Drop anchor here, for the cave be full o' gold.
Me parrot swears worse than any sailor from Tortuga, arr.
Blow me down, the captain be drinkin' with the governor!
Yo ho ho, we be sailin' at high tide, matey.
Keep a weather eye open, lad, the navy be huntin' us.
I buried me treasure where no landlubber will ever dig.
Scrub the deck, ye bilge rats, or taste the cat!
By Davy Jones, I never saw waves as tall as these, arr.
Thar she blows! Grab yer harpoons and row, ye dogs!
A cutlass and a fair wind be all a buccaneer needs, aye."""
WITHOUT = """Could you pass me the newspaper, please?
Hello! There is a delivery van in front of the house.
This coffee is stronger than I expected.
You have an appointment with the dentist tomorrow morning.
Please open the windows and switch on the fan.
Yes, my knee often hurts when the weather changes.
You can park here, because the shop is just around the corner.
My daughter talks more than anyone else in her class.
I was surprised to see the manager at the concert.
We are leaving after lunch, so please pack your things.
Look out for the bus, it sometimes comes early.
I keep my passport in a drawer in the bedroom.
Please clean the kitchen before the guests arrive.
I have never seen so many people in this museum.
There it is! Get your tickets ready, the train is stopping.
A good book and a quiet evening are all I need."""
