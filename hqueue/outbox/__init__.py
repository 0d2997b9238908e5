"""Mail and webhooks: what is to be told is stored with the change that it tells of, and sent until somebody takes it.

news       what happened, for whom; and the farm's own troubles
addresses  who may be told: domains of mail, hosts of webhooks
letters    news become letters: one for a tree's end, one for many of the same, no more than so many an hour
delivery   sends letters, again and again where need be
mail       a letter as mail, by SMTP
webhooks   a letter as a call, by HTTP
"""
