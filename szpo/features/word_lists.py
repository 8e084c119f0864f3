"""Lists of English words and phrases, our own, that entries of the dictionary count.

Each row is an entry: name, group, how less and more of it are said, and its phrases; ``_`` joins
the words of a phrase. An entry is the share of an answer's words at which a phrase begins.
"""

from __future__ import annotations

from typing import Final

LISTS: Final[tuple[tuple[str, str, str, str, str], ...]] = (
    # ---- who speaks, and of whom ----
    ("i", "person", 'says "I" less', 'says "I" more',
     "i me my mine myself i'm i've i'd i'll"),
    ("we", "person", 'says "we" less', 'says "we" more',
     "we us our ours ourselves we're we've we'd we'll let's"),
    ("you", "person", "speaks to the reader less", "speaks to the reader more",
     "you your yours yourself yourselves you're you've you'd you'll"),
    ("he-she", "person", 'says "he" or "she" less', 'says "he" or "she" more',
     "he she him her his hers himself herself he's she's he'd she'd he'll she'll"),
    ("they", "person", 'says "they" less', 'says "they" more',
     "they them their theirs themselves they're they've they'd they'll"),
    ("it", "person", 'says "it" less', 'says "it" more', "it its itself it's it'd it'll"),
    ("people", "people", "fewer people", "more people",
     "people person man woman men women child children boy boys girl girls kid kids baby friend "
     "friends neighbor neighbors neighbour neighbours stranger strangers guest guests "
     "family families mother father mom mum dad parents son daughter brother sister grandmother "
     "grandfather uncle aunt wife husband"),
    # ---- time of verbs ----
    ("past", "tense", "fewer past verbs (was, had, went)", "more past verbs (was, had, went)",
     "was were wasn't weren't had hadn't did didn't went came saw took made got gave found told "
     "said thought knew felt left kept began stood sat ran fell heard brought held met wrote "
     "became grew lost spoke lay led read slept woke"),
    ("present", "tense", "fewer present verbs (is, has, does)",
     "more present verbs (is, has, does)",
     "is isn't are aren't am i'm you're we're they're has hasn't have haven't do does don't "
     "doesn't it's he's she's that's there's i've you've we've they've"),
    ("future", "tense", "less about the future", "more about the future",
     "will won't shall going_to tomorrow soon i'll you'll he'll she'll it'll we'll they'll "
     "next_week next_year"),
    # ---- modality ----
    ("can", "modality", "fewer possibilities (can, may)", "more possibilities (can, may)",
     "can can't cannot could couldn't may might able"),
    ("must", "modality", "fewer duties (must, should)", "more duties (must, should)",
     "must mustn't should shouldn't ought need needs needed have_to has_to had_to supposed_to"),
    ("would", "modality", "fewer conditions (would, if)", "more conditions (would, if)",
     "would wouldn't if unless i'd you'd he'd she'd we'd they'd whether otherwise"),
    ("not", "modality", "fewer negations", "more negations",
     "not no never none nothing nobody nowhere neither nor cannot can't couldn't don't doesn't "
     "didn't isn't aren't wasn't weren't won't wouldn't shouldn't hasn't haven't hadn't without"),
    # ---- small words ----
    ("the", "small words", 'fewer "the"', 'more "the"', "the"),
    ("a", "small words", 'fewer "a" and "an"', 'more "a" and "an"', "a an"),
    ("of", "small words", 'fewer "of"', 'more "of"', "of"),
    ("places-of", "small words", "fewer words of place (in, on, under)",
     "more words of place (in, on, under)",
     "in on at under over above below behind beside between near inside outside into onto through "
     "across along around from up down"),
    ("this", "small words", "less pointing (this, those)", "more pointing (this, those)",
     "this that these those here there"),
    ("which", "small words", 'fewer clauses with "which" or "who"',
     'more clauses with "which" or "who"',
     "which who whom whose where when while"),
    # ---- connectives ----
    ("and", "connectives", 'fewer "and"', 'more "and"', "and"),
    ("but", "connectives", "fewer contrasts (but, however)", "more contrasts (but, however)",
     "but however although though yet still nevertheless instead despite whereas even_so "
     "on_the_other_hand"),
    ("because", "connectives", "fewer reasons (because, so)", "more reasons (because, so)",
     "because since so therefore thus hence as_a_result due_to so_that that's_why which_is_why"),
    ("then", "connectives", "fewer steps in time (first, then)",
     "more steps in time (first, then)",
     "then first second third next finally after afterwards before later meanwhile once until "
     "last eventually"),
    ("also", "connectives", "fewer additions (also, as well)", "more additions (also, as well)",
     "also too moreover furthermore besides additionally as_well in_addition another plus"),
    ("example", "connectives", "fewer examples", "more examples",
     "for_example for_instance such_as like_a like_an like_the e_g including namely"),
    # ---- degree ----
    ("vague", "hedges", "fewer vague words", "more vague words",
     "some something somehow somewhere someone thing things stuff several various certain many "
     "much few a_bit a_lot sort_of kind_of about around roughly almost nearly"),
    ("intensifiers", "emphasis", "fewer intensifiers (very, really)",
     "more intensifiers (very, really)",
     "very really so truly absolutely incredibly extremely totally completely deeply highly quite "
     "simply utterly especially particularly certainly definitely indeed"),
    ("absolutes", "emphasis", "fewer absolutes (always, never)", "more absolutes (always, never)",
     "always never every everyone everything everybody all none nobody entirely forever only must "
     "whole each"),
    ("superlatives", "emphasis", "fewer superlatives", "more superlatives",
     "most best worst least greatest biggest largest smallest longest highest oldest finest "
     "happiest favorite favourite"),
    ("comparatives", "emphasis", "fewer comparisons (more, than)",
     "more comparisons (more, than)",
     "more less than better worse bigger smaller older younger longer shorter higher lower easier "
     "harder faster further rather_than as_much_as"),
    # ---- manner of speaking ----
    ("greetings", "politeness", "fewer greetings", "more greetings",
     "hello hi hey dear greetings good_morning good_evening good_afternoon goodbye farewell "
     "sincerely yours_truly best_regards best_wishes"),
    ("helper-talk", "politeness", "less talk of an assistant", "more talk of an assistant",
     "as_an_ai language_model i'm_sorry i_apologize certainly of_course great_question "
     "let_me_know feel_free i'd_be_happy happy_to_help here_are here_is i_hope_this_helps sure"),
    ("slang", "informality", "less slang", "more slang",
     "yeah yep nope okay ok wow hey oh gonna wanna gotta kinda sorta guys stuff cool awesome lol "
     "uh um hmm ah well yay oops damn dude"),
    ("contractions", "informality", "fewer contractions", "more contractions",
     "i'm i've i'd i'll you're you've you'd you'll he's she's it's we're we've we'd we'll they're "
     "they've they'd they'll that's there's what's who's here's let's don't doesn't didn't can't "
     "couldn't won't wouldn't shouldn't isn't aren't wasn't weren't hasn't haven't hadn't it'll"),
    ("bookish", "informality", "fewer bookish words", "more bookish words",
     "upon whilst shall thus hence amidst amid amongst beneath beyond therefore wherein whom "
     "furthermore moreover indeed nevertheless albeit regarding"),
    # ---- what is told ----
    ("speech", "story", "fewer words of speech (said, asked)",
     "more words of speech (said, asked)",
     "say says said saying tell tells told ask asks asked answer answers answered reply replied "
     "speak speaks spoke talk talks talked whisper whispered shout shouted call called explain "
     "explained"),
    ("thinking", "mind", "fewer words of thought", "more words of thought",
     "think thinks thought know knows knew believe believes believed understand understood "
     "remember remembers remembered wonder wondered imagine imagined idea ideas mind memory "
     "memories realize realized consider dream dreams"),
    ("feeling", "mind", "fewer words of feeling", "more words of feeling",
     "feel feels felt feeling feelings love loves loved hate hated fear feared joy sad happy "
     "angry afraid proud lonely excited nervous worried grateful calm surprised emotion emotions"),
    ("senses", "mind", "fewer words of the senses", "more words of the senses",
     "see sees saw seen look looks looked watch watched hear hears heard sound sounds listen "
     "smell smells smelled scent taste tastes tasted touch touched soft warm "
     "bright loud quiet aroma"),
    ("body", "mind", "fewer parts of the body", "more parts of the body",
     "hand hands eye eyes face heart head arm arms voice feet foot hair mouth shoulder shoulders "
     "finger fingers skin leg legs ear ears smile body"),
    ("story", "story", "fewer words of a tale", "more words of a tale",
     "once_upon one_day long_ago there_was there_were there_lived story stories tale tales named "
     "adventure journey suddenly secret legend hero chapter"),
    # ---- topics ----
    ("nature", "nature", "less nature", "more nature",
     "tree trees forest river sea ocean lake mountain mountains hill hills field fields garden "
     "flower flowers grass leaf leaves beach sky earth water stone stones woods meadow plant "
     "plants"),
    ("weather", "nature", "less weather", "more weather",
     "rain rainy snow snowy wind windy storm storms cloud clouds cloudy sun sunny sunlight "
     "sunshine fog foggy mist ice frost cold hot heat breeze thunder weather"),
    ("animals", "nature", "fewer animals", "more animals",
     "dog dogs cat cats bird birds horse horses fish cow cows sheep duck ducks bear wolf fox owl "
     "mouse mice rabbit turtle spider insect insects bee bees animal animals pet pets"),
    ("time", "everyday life", "fewer times of day and year", "more times of day and year",
     "day days night nights morning mornings evening afternoon noon midnight hour hours minute "
     "minutes week weeks month months year years today yesterday tonight monday sunday spring "
     "summer autumn winter"),
    ("home", "everyday life", "less about home", "more about home",
     "home house houses room rooms kitchen door doors window windows bed table chair wall walls "
     "floor roof apartment cellar attic balcony sofa shelf"),
    ("town", "everyday life", "less about towns and roads", "more about towns and roads",
     "city cities town towns village street streets road roads park parks shop shops store market "
     "station train trains bus car cars bridge building buildings corner hotel airport"),
    ("food", "everyday life", "less food", "more food",
     "food eat eats eating ate meal meals bread coffee tea soup cake fruit apple apples cook "
     "cooking cooked dinner lunch breakfast cheese milk sugar salt recipe dish dishes delicious "
     "restaurant bakery drink wine"),
    ("work", "work and learning", "less about work and money", "more about work and money",
     "work works worked working job jobs office business company project projects team boss "
     "worker workers money pay paid price cost buy bought sell sold market customer customers"),
    ("learning", "work and learning", "less about school and books", "more about school and books",
     "school teacher teachers student students class lesson lessons learn learned learning study "
     "studied university book books reading letter letters library page pages"),
    ("technology", "work and learning", "less technology", "more technology",
     "computer computers software data system systems machine machines technology online internet "
     "phone phones screen digital device devices code email website robot camera"),
    ("arts", "work and learning", "less about music and art", "more about music and art",
     "music song songs sing sang singing dance danced dancing band choir piano guitar art artist "
     "paint painting picture pictures photo film movie theater poem poetry play"),
    ("colours", "nature", "fewer colours", "more colours",
     "red blue green yellow white black grey gray golden gold brown purple orange pink silver "
     "color colors colour colours colorful"),
    ("number-words", "names and numbers", "fewer numbers in words", "more numbers in words",
     "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty "
     "hundred hundreds thousand thousands million half dozen"),
)  # fmt: skip

POLITE: Final = (
    "please thank_you thanks sorry excuse_me pardon welcome kindly would_you could_you may_i "
    "i_appreciate glad_to happy_to my_pleasure"
)
"""Marks of politeness, among those that Danescu-Niculescu-Mizil et al. (2013) list."""
HEDGES: Final = (
    "maybe perhaps possibly probably might may could seems seem appears i_think i_believe i_guess "
    "sort_of kind_of rather somewhat"
)
"""Words that soften a claim."""
OPENINGS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("starts-the", 'opens with "the" less often', 'opens with "the" more often', "the"),
    ("starts-a", 'opens with "a" or "an" less often', 'opens with "a" or "an" more often', "a an"),
    ("starts-i", 'opens with "I" or "we" less often', 'opens with "I" or "we" more often',
     "i i'm i've i'd i'll my we we're we've our"),
    ("starts-it", 'opens with "it" or "this" less often', 'opens with "it" or "this" more often',
     "it it's this that there there's these those here"),
    ("starts-time", "opens with a time or place less often",
     "opens with a time or place more often",
     "in on at as when while after before once during under from with by one"),
    ("starts-order", "opens with an instruction less often",
     "opens with an instruction more often",
     "take make go look let let's try imagine consider find use start think write remember be "
     "keep give put see close open listen step picture do don't get set turn choose"),
    ("starts-yes", 'opens with "yes" or "no" less often', 'opens with "yes" or "no" more often',
     "yes no yeah nope sure absolutely certainly indeed"),
)  # fmt: skip
"""Whether an answer's first word is of a list: name, less, more, words."""
COMMON: Final = (
    "the a an of to in and or that is was it for on with as at by be this are you i we my your do "
    "what how why about me tell describe write"
)
"""Words by which English prompts are known."""
