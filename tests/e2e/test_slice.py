"""From a robot's bytes to a screen."""

from tests.e2e.server import Replica, Server, receive


async def test_a_robots_line_reaches_a_screen(server: Server) -> None:
    async with server.watch("/ws/robots") as screen:
        replica = Replica()
        replica.apply(await receive(screen))
        answers = server.tell(
            {"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": 81, "id": "1"}
        )
        assert answers == [{"status": "success", "message": "stored", "id": "1"}]
        replica.apply(await receive(screen))
        (robot,) = replica.entities.values()
        assert (robot["robot_id"], robot["status"], robot["battery_level"]) == ("alba-1", "SERVING", 81)
