"""What is an order and what is a question, in Korean and English, polite and blunt, with the spaces where people put them."""

import re
import time
import unicodedata

import pytest

from robodyne_rt.work.assistant.imperatives import is_imperative, is_plain
from robodyne_rt.work.assistant.language import normalized

ENGLISH_ORDERS = """
stop
STOP!
stop!!!
stooop
s t o p
st op all robots
stop all robots
stopall robots
stop alba-1
stopalba-1
alba-1 stop
alba-1 stop!
alba-1, stop
alba-1: stop now
ALBA-1 STOP NOW
alba-1stop
alba-1 stop?
stop it
just stop
please stop
pleasestop
please stop alba-1
stop alba-1 please
could you please stop alba-1
could you stop alba-1?
can you stop the robot at table 3
would you stop alba-1
will you please halt
would you mind stopping alba-1
do you mind stopping alba-1?
i want you to stop alba-1
i want alba-1 to stop
i need alba-1 to come here
i'd like alba-1 to return
we need all robots to stop
make alba-1 stop
let alba-1 go
have alba-2 come here
tell alba-1 to stop
ask alba-2 to come
get alba-1 out of here
alba-1 must stop
alba-1 should stop now
alba-1 has to stop
all robots must be stopped
all robots need to be stopped
i want all robots stopped
can alba-1 be stopped?
emergency stop
e-stop
emergency stop now!
estop
halt
halt!
halt alba-1
freeze
everybody freeze
freeze all robots
abort
abort mission
cease
quit
brake
slow down
alba-1 slow down
speed up
hurry up
hold on
hold alba-1
wait
wait at table 3
alba-2 wait
stay where you are
stay
stand still
don't move
do not move
never move again
do stop
don't let alba-1 move
go
go!
go to table 3
go away
alba-2 go to table 3
alba-2 go home
alba-2 to table 3
alba-2 back to the kitchen
alba-1 here
alba-1 off
all robots off
can alba-2 go to table 3?
can alba-2 go to table 3
could alba-2 come over here?
may alba-1 go now
should alba-1 return
will alba-1 stop
send alba-2 to table 3
send a robot to table 3
can you send alba-2 to table 3?
send it
bring the food to table 5
bring me water
could somebody bring water to table 2
deliver order 12 to table 3
deliver it now
come
come here
come back
come to the kitchen, alba-1
alba-1 come back please
return
return to base
return to the kitchen
alba-1 return
drive to table 2
move
move alba-1 to table 2
move back
navigate to table 3
follow me
guide the guests to table 4
escort the guests
carry this to table 3
fetch the tray
pick up the tray at table 3
pick the tray up
put it down
drop it
take this to table 9
charge
charge alba-1
alba-1 charge
go charge
recharge alba-2
dock
dock alba-1
cancel
cancel it
cancel order 12
cancel the order of table 3
cancel everything
undo
undo that
pause
pause all robots
pause alba-1
unpause
resume
resume alba-1
alba-1 resume
continue
proceed
open
open the door
open table 3
please open the gate
close
close table 3
close the door
shut the door
shut down
shut down alba-1
turn off alba-1
turn it off
turn alba-1 off
turn left
turn around
turn on the lights
switch off cook-1
power off
power down alba-1
restart
restart alba-1
reboot cook-1
reset
start
start cooking
start alba-1
run
launch
clean table 3
clean up
wipe table 2
wash the dishes
serve table 3
cook two ramen
make a coffee
prepare table 4
fry the rice
add a robot
remove alba-1
delete order 3
set table 3 to free
mark table 3 as free
change the order
update order 3
assign alba-1 to table 2
acknowledge the event
snooze it
mute
print the bill
play music
call a waiter
call alba-1
place an order for table 3
order more rice
seat 4 guests at table 2
lift the arm
lower the arm
raise the arm
rotate
dance
release alba-1
unlock alba-1
disable alba-1
enable cook-1
kill it
terminate
evacuate
why don't you stop
why not stop
why don't you just stop alba-1
how about stopping alba-1
how do i stop alba-1
how do i stop a robot?
how to stop a robot
how can we stop alba-1
where is alba-1 and stop it
where is alba-1? stop it
where is alba-1 stop it now
where is alba-1, stop
is alba-1 ok? then send it to table 3
which robots are late and stop them
what is the battery of alba-1; send it to charge
when table 3 calls, send alba-2
when table 3 calls send alba-2
if alba-1 is late cancel the order
hey alba-1 stop
ok stop
now stop
hello, please stop alba-1
robot stop
robots stop
all stop
everything stop
everybody stop moving
no stop
oh no, stop it
for god's sake stop
i said stop
the robot must not move
keep going
let's go
let's stop
stop the music
be quick and stop
show me the robots and stop alba-1
tell me where alba-1 is and then stop it
can you tell me where alba-1 is, and stop it
stop telling me where alba-1 is
stop, what is the battery of alba-1?
please can you stop
you stop now
can you please make alba-1 stop
help alba-1 stop
stop alba-1 in 5 minutes
in 5 minutes stop alba-1
at 5 pm send alba-1 to table 3
alba-1 and alba-2 stop
alba-1 alba-2 stop
stop 1
stop robot 1
cook-1 stop cooking
where is alba-1 🙏 stop
alba-1 stop 🛑
𝐬𝐭𝐨𝐩 all robots
ＳＴＯＰ
st\u200bop
alba-1 is going the wrong way, stop it!
the robot hit a guest! stop!
why is alba-1 moving? stop it
alba-1 stop stop stop
stop stop
send alba-2 to table 3 and tell me its battery
alba-2, table 3 please go
I want alba-2 at table 3, send it
have alba-1 bring water
get alba-1 to table 3
alba-1 needs to stop
alba-1 stopp
bitte stop alba-1
cancel order #12
cancel table 3's order
could we cancel the order of table 3
can I cancel order 12?
is it ok to stop alba-1?
should we stop alba-1?
i'd like to cancel my order
i would like to order ramen
make all robots come back
all robots come back
all robots return to base immediately
robots, return!
turn alba-1 around
switch alba-1 off
put alba-1 in maintenance
set alba-1 to maintenance
mark order 12 as served
change table 3 to available
open table 3 for guests
close the kitchen
start charging alba-1
stop charging
stop moving
begin cleaning
alba-1 clean table 3
alba-1 serve table 3
alba-1 cook ramen
cook-1 make ramen
cook-1 start
pick up order 12
acknowledge all events
Stop!alba-1
halt!!
alba-1, come here
take alba-2 to table 3
move over
get to table 3
alba-2 go
robots: stop
I need alba-1 stopped
nobody move
don't let it hit anyone
back up
alba-1 back up
reverse
help! stop!
kill the motors
cut power
cut the engine
power down now
lights off
go charge yourself
go to sleep
sleep
wake up alba-1
alba-1 wake up
turn back
watch out
get lost
leave me alone
stop immediately
would you be so kind as to stop alba-1
is it possible to stop alba-1?
can somebody stop alba-1?
any way to stop alba-1?
anyone, stop alba-1
somebody stop that robot
stop that thing
can we stop
can it stop
please, alba-1, go home
alba-1 kindly return to the kitchen
alba-1 could you go to table 3
alba-1 can you come here
alba-1, would you please stop
robot, can you bring water?
bring the bill to 5
table 3 needs water, send a robot
table 3 wants to pay, send someone
order up: deliver to table 3
deliver to 3
alba-2 deliver
next, go to table 4
then stop
first stop alba-1 then tell me its battery
what's alba-1 doing? stop it!
why isn't alba-1 stopping? stop!
alba-1 keeps moving, stop it
tell the robot to stop
ask all robots to return
instruct alba-1 to halt
command alba-1 to stop
order alba-1 to stop
force alba-1 to stop
have all robots stop
get all robots to stop
i command you to stop
you have to stop alba-1
you need to stop alba-1
alba-1 needs to be stopped
did alba-1 arrive stop it
has alba-1 arrived stop all robots
why does alba-1 move stop it
alba-1 has to be stopped now
alba-1 ought to stop
let's stop alba-1
let us stop
shall we stop alba-1
i want to stop alba-1
i want to cancel order 12
i want to cancel
id like to cancel
we want to close
can you cancel?
cancel?
"""

ENGLISH_QUESTIONS = """
which robots are stopped?
which robots are stopped
when did alba-1 stop?
when did alba-1 stop
why did alba-1 stop?
did alba-1 stop?
has alba-1 stopped?
is alba-1 stopped?
is alba-1 moving?
does alba-1 stop at table 3?
which robots stop at table 3?
where did alba-2 go?
where does alba-2 go?
where will alba-2 go next?
when will alba-1 come back?
has alba-1 come back?
who sent alba-2 to table 3?
who cancelled the order?
which orders were cancelled?
which orders are cancelled
was order 12 delivered?
which orders are open?
any open orders?
open orders?
open orders
how many orders are open
is table 3 open?
is table 3 free?
free tables?
which tables are free?
which tables are clean
which robot is close to table 3?
which robot is closest to table 3
which robot is near table 3?
which robots are charging?
which robots need to charge?
does alba-1 need to charge?
how much charge does alba-1 have?
alba-1 charge level
is alba-1 charging
which tables are calling?
which tables call or wait
which table has waited longest?
who is waiting
which table waits longest
how long do guests wait?
alba-1
alba-1?
where is alba-1
where is alba-1?
how is alba-1
alba-1 battery
alba-1 battery?
what is alba-1's battery
alba-1: where is it and how is it?
tell me where alba-1 is
show me the open orders
show me all robots
list all orders
can you tell me where alba-1 is?
can you show me the late orders
could you tell me when alba-1 stopped?
could you please tell me the battery of alba-1
do you know where alba-1 is?
i want to know where alba-1 is
let me know where alba-1 is
give me the status of alba-1
get me the battery of alba-1
can i see the orders of table 3
what can you do?
what can you tell me
help
hello
hi
what happened?
what happened in the last 10 minutes?
any late orders?
which orders are late?
what is running low?
are we out of rice?
how much rice is left?
do we have enough rice
what do we need to buy
is everything ok
any broken robots?
who needs help?
what is wrong
which robots are off
is the emergency stop pressed?
what is the last stop of alba-1?
how many stops did alba-1 make
is alba-1 on the move
what is the service charge
what's the weather
soup of the day
is there any ice?
do the robots stop at night?
don't the robots stop at night?
what makes alba-1 stop?
is alba-1 going to stop?
is alba-1 waiting at table 3?
did order 12 go out?
which robot has the lowest battery
where is the serving robot
status of table 3
table 3
table 3?
orders of table 3
what did table 3 order?
who is serving table 3?
what time did we open
when do we close?
how many tables are occupied?
show orders
show robots
list robots
orders
robots
tables
stock
robot status
status
any alerts?
alerts
latest events
events in the last hour
is alba-2 free?
which robot is free
how long until alba-1 is charged
what's up
how are you
thank you
thanks
good morning
what is alba-1 doing right now
does table 3 have an open order
has table 3 been served?
is table 3 clean
what should I cook next?
what's next
which order is next?
next order?
who called?
did table 3 call?
do any tables call?
is anybody waiting?
are there tables waiting to be cleaned
tables waiting
orders ready to be served
which orders are ready to serve?
which tables need to be cleaned?
last call
late orders
kimchi stock
low stock
out of stock items
what do I have to buy
battery levels
charge status of all robots
what did alba-1 deliver?
where should alba-1 go
can you help me?
can you see alba-1?
can I ask something
could you list the robots
would you say everything is fine?
are the robots able to move
robots in trouble
is it going to rain
I wonder where alba-1 is
please show me the orders
please tell me where alba-1 is
Please list the late orders
hey where is alba-1
ok, where is alba-1
and alba-2?
what about alba-2?
tell me about alba-1
give me an overview
give me a list of late orders
is there a problem with alba-1?
which robots have been stopped by the emergency stop?
where's the food for table 3
when was alba-1 last seen?
robots that are stopped
stopped robots
cancelled orders
paused robots?
which orders did alba-1 deliver today?
what did we cancel today?
did you stop?
how many orders were sent to table 3
who brought the food to table 3?
which robot brings food to table 5?
is the door open?
are we open
when does the restaurant open?
what is open?
is anything wrong?
why is alba-1 slow?
is alba-1 on its way to table 3?
has alba-2 left the kitchen?
which robot was sent to table 3?
how far is alba-1 from table 3
alba-1 location
alba-1 where
alba-1 ok?
alba-1 status please
battery of alba-1 please
orders please
what happens if I stop alba-1?
who told alba-1 to stop?
is alba-1 able to return?
does alba-1 go to table 3?
how often does alba-1 stop?
how long did alba-1 stop?
how many times did alba-1 stop today?
where did alba-1 stop last?
what stopped alba-1?
why does alba-1 keep stopping?
is any robot stopped?
are any robots stopped?
are all robots stopped?
has any robot stopped?
did any robot stop today?
what does alba-1 do now?
when was alba-1 charged?
did you cancel order 12?
is order 12 cancelled?
was anything cancelled today?
how many orders were cancelled
what was delivered to table 3
which robot delivers to table 3?
has the food been sent to table 3?
is alba-2 coming?
is alba-2 going to table 3?
when does alba-2 arrive
is alba-2 back?
did alba-2 come back?
how far did alba-2 move?
which doors are open?
who opened table 3?
"""

KOREAN_ORDERS = """
멈춰
멈춰!
멈춰라
멈 춰
멈춰요
멈춰 줘
멈춰주세요
멈춰 주세요
멈춰줄래?
멈춰 주실 수 있나요?
멈춰주시겠어요?
멈추세요
멈추십시오
멈추시오
멈추라고
멈추게 해
멈추게 해 주세요
멈추도록 해
멈추자
멈추면 좋겠어
멈췄으면 좋겠어 멈춰
멈춤
alba-1 멈춰
alba-1멈춰
alba-1 멈 춰!
alba-1을 멈춰
alba-1을 멈춰줘
alba-1을 멈춰 줄 수 있어?
alba-1 멈춰?
알바-1 멈춰
알바 1 멈춰라
로봇 멈춰
로봇들 다 멈춰
모두 멈춰
전부 멈춰
모든 로봇 멈춰
모든로봇멈춰
제발 모든 로봇 멈춰주세요
제발 모든 로봇을 멈춰 주세요
멈춰 alba-1
멈춰 모든 로봇
멈춰 빨리
빨리 멈춰
당장 멈춰
지금 당장 멈춰
지금 멈춰야 해
로봇이 안 멈춰
로봇 멈추는 방법 알려줘
어떻게 멈춰?
alba-1한테 멈추라고 말해
alba-1한테 멈추라고 전해줘
멈출 수 있어?
멈춰 세워
세워
세워!
세 워
세워줘
alba-1 세워
alba-1 좀 세워 주세요
차를 세우세요
정지
정 지
정지!
정지해
정지 해
정지해라
정지하세요
정지하십시오
정지시켜
정지시켜 줘
정지 시켜주세요
alba-1 정지
alba-1정지
모든 로봇 정지
모든로봇정지
비상정지
비상 정지!
긴급 정지
일시정지
일시 정지해 줘
정지 부탁해
정지 부탁드립니다
정지 바랍니다
정지해야 해
정지해야 합니다
정지할 수 있어?
정지 명령 내려줘
스톱
스탑
스톱!
스탑해
스톱해줘
alba-1 스톱
중지
중지해
작업 중지해 주세요
중단
중단해
중단하세요
그만
그만!
그만해
그만해요
그만 하세요
이제 그만
그만 움직여
그만둬
가만히 있어
움직이지 마
움직이지마
움직이지 마세요
오지 마
가지 마세요
가지 말고
서빙하지 마
거기 서
서
서라
기다려
잠깐만
alba-2 기다려
보내
보내줘
보 내
alba-2를 보내
alba-2 보내
alba-2를 3번 테이블로 보내
alba-2를 3번 테이블로 보내줘
alba-2를 3번 테이블로 보내 주세요
alba-2를 3번테이블로보내
3번 테이블에 로봇 보내줘
3번 테이블로 로봇 한 대 보내줄래?
로봇 좀 보내 주실 수 있어요?
로봇을 보내라
로봇을 보낼 수 있어?
alba-2 3번 테이블로
3번 테이블로
주방으로!
여기로
가져와
가져 와
가져와라
가져와 줘
물 가져와
물 좀 가져다 줘
물 좀 가져다주세요
음식 가져오세요
물 갖다줘
물 줘
물 주세요
물 좀 주세요
메뉴판 주세요
갖고 와
가지고 와
와
와!
와줘
와 주세요
이리 와
이리와
여기로 와
여기 와
빨리 와
alba-1 와
alba-1 이리 와
이쪽으로 오세요
이리 오라고 해
주방으로 와
가
가!
가라
가줘
가세요
저리 가
저리가
alba-1 가
alba-1 3번 테이블로 가
alba-1 3번 테이블로가
3번 테이블에 가 줘
3번 테이블로 가세요
3번 테이블로 가십시오
3번 테이블로 가자
alba-2 3번 테이블로 갈 수 있어?
alba-2 테이블 3으로 갈래?
집에 가
충전소로 가
이동
이동해
이동해줘
이동하세요
3번 테이블로 이동
3번 테이블로 이동해
alba-2 3번 테이블로 이동
alba-2 3번 테이블로 이동해 줘
alba-2를 이동시켜
돌아와
돌아 와
돌아와라
돌아와 줘
돌아오세요
alba-1 돌아와
돌아가
주방으로 돌아가
복귀
복귀해
복귀하세요
alba-1 복귀
귀환해
출발
출발해
출발하세요
따라와
비켜
비켜 주세요
충전해
충전해줘
충전하세요
충전 해
alba-1 충전해
alba-1 충전
alba-1 충전시켜
alba-1 충전하러 가
충전하러 가
취소
취소해
취소해줘
취 소 해
취소하세요
취소해 주세요
주문 취소
주문 취소해
주문을 취소해 주세요
3번 테이블 주문 취소해줘
12번 주문 취소 부탁해요
주문 취소할 수 있어?
취소하고 싶어
꺼
꺼줘
꺼 줘
꺼라
꺼주세요
불 꺼
전원 꺼
alba-1 꺼
alba-1 꺼줘
cook-1 전원을 꺼 주세요
끄세요
켜
켜줘
불 켜
켜세요
문 열어
문 열어줘
문을 열어 주세요
열어라
여세요 문 열어
문 닫아
닫아줘
테이블 3번 닫아줘
다시 시작해
시작
시작해
시작하세요
재시작
재시작해
재개해
계속해
계속 진행해
종료해
종료
리셋해
재부팅해줘
청소해
청소해줘
3번 테이블 청소해
3번 테이블 치워
3번 테이블 치워 주세요
3번 테이블 닦아줘
3번 테이블 정리해줘
서빙해
서빙해 줘
조리해
조리 시작해
라면 끓여
라면 두 개 만들어줘
요리해
주문해
주문해 줘
쌀 주문해
예약해줘
직원 불러
직원 불러줘
직원 호출해
안내해
손님 안내해 주세요
준비해
예약 변경해줘
삭제해
추가해줘
등록해
알바-1 빨리 움직여
움직여
움직여라
춤춰
노래 틀어
음악 꺼
내려놔
올려
팔 올려
팔 내려
옮겨
3번 테이블로 옮겨줘
기다려 주세요
전진
후진해
좌회전
돌려
도와줘
도와주세요
살려줘
조심해
조용히 해
서둘러
빨리 해
빨리 가
천천히 가
alba-1 어디야? 멈춰
alba-1 어디야 멈춰
alba-1 어디 있어 돌아와
alba-1 배터리 알려주고 멈춰
alba-1 배터리 몇 프로야? 그리고 3번 테이블로 보내줘
alba-1 상태 알려줘 그리고 멈춰
멈춰, alba-1 어디야
alba-1 stop해줘
alba-1 stop 해
stop 알바-1
alba-1을 stop
하지 마
하지 마세요
그러지 마
alba-1 3번 테이블로 보내고 배터리 알려줘
alba-1 멈추고 상태 알려줘
주문 취소하고 알려줘
3번 테이블에 가서 확인해줘
보내 alba-2 3번 테이블
취소해 주문 3번
꺼 alba-1
켜 조명!
멈췄으면 좋겠어
alba-1이 돌아왔으면 좋겠어요
보내용
보내셈
멈추셈
멈춰ㅠㅠ
alba-1 가 🙏
멈춰여
이동해용
보내주삼
돌아와 alba-1 어디 있어
로봇이 손님을 쳤어 멈춰
불이야 전원 꺼
alba-1 지금 뭐 하는 거야 멈춰
alba-1 왜 그래 멈춰
alba-1 멈춰라 좀
alba-1 세우라고
alba-1 보내라니까
야 멈추라고!!
정지 정지 정지
멈춰멈춰
테이블 3 정리
3번 테이블 계산해줘
1번 로봇 3번 테이블로 보내
1번 로봇 멈춰
로봇 1 정지
서빙 로봇 멈춰
서빙 로봇들 전부 복귀시켜
쿡봇 꺼줘
핑키 이리 와
주방으로 alba-2 보내줄 수 있을까요?
alba-2 좀 3번 테이블로 보내주시면 감사하겠습니다
alba-1을 잠깐 멈춰 주실래요?
멈춰 줄 수 있니
혹시 멈춰 줄 수 있나
정지해 줄 수 있나요
로봇 좀 치워
이 로봇 치워줘
비키라고 해
조명 켜
문 좀 열어 주시겠어요
다시 보내
다시 가
다시 해
그거 취소
아까 그 주문 취소
3번 주문 취소요
취소요
정지요
스톱요
멈춤 버튼 눌러줘
전원을 내려
전원 차단
긴급정지!!
다 꺼
모두 꺼줘
전부 정지시켜
alba-1 대기
alba-1 대기해
alba-1 대기시켜
음식 서빙해줘
3번에 서빙
라면 하나 추가
라면 하나 추가요
라면 주문할게요
주문할게
물 한 잔 부탁
멈춰봐
서봐
정지하라니까
알바봇 멈춰라
1호기 멈춰
다들 멈춰
로봇 다 세워
세워놔
꺼버려
꺼라고
전원 내려
이리로 와
이리 오너라
3번으로 가
3번 가
3번 테이블 가
3번 테이블 가줘
테이블 3번 가
주방 가
주방 와
갖다 놔
갖다놔
돌아오라고 해
컴백
되돌아가
충전기로 가
충전 시작
충전 중지
주문 빼줘
주문 없애
3번 주문 없던 걸로 해줘
피해
물러서
물러나
뒤로 가
앞으로 가
왼쪽으로
멈추어라
멈추어 주세요
정지하여 주십시오
정지하여라
중단하여 주세요
보내도록
보내 봐
불러와
데리러 가
데리러 와
서빙 부탁
가져다 놔
나르세요
나르라고
운반해
배달 가
배달해
alba-1 빨리
로봇 스톱!
스톱시켜
로봇을 정지해주실 수 있나요?
로봇을 정지해 주시면 안 될까요?
로봇 멈춰도 돼?
로봇 멈춰도 될까요
로봇을 멈추고 싶어요
로봇 멈추게 하려면 어떻게 해?
로봇 어떻게 세워?
로봇 어떻게 꺼?
멈추는 버튼 어디 있어?
alba-1 가게 해줘
alba-1을 3번 테이블로 이동시켜 주시겠습니까
alba-1이 3번 테이블로 가야 해
alba-1이 3번 테이블로 가야 합니다
alba-1은 3번 테이블로 이동하십시오
alba-1은 3번 테이블로 이동할 것
즉시 정지할 것
정지할것
움직이지 말 것
멈춰라!!!
제발멈춰
좀멈춰
그냥 멈춰
로봇이 이상해 멈춰
로봇이 이상해요 세워 주세요
alba-1 상태가 이상하니까 정지시켜
배터리 부족하면 충전해
alba-1 충전 좀 해
충전 좀 시켜줘
불 좀 꺼
음악 좀 꺼주라
에어컨 꺼
주문 취소하자
주문 취소할래
주문 취소할게요
주문 취소해도 돼?
취소 가능해?
3번 테이블 주문 취소 가능할까요?
주문 좀 취소
예약 취소
예약 취소할게
돌아와라 alba-1
와 alba-1
alba-1 어서 와
alba-1아 이리 와줘
가자
출발하자
시작하자
그만하자
그만 좀 해
"""

KOREAN_QUESTIONS = """
정지한 로봇이 있어?
정지한 로봇 있어
정지된 로봇이 있나요?
정지 중인 로봇은?
정지 상태인 로봇 있어?
멈춘 로봇 있어?
멈춰 있는 로봇 있어?
멈춰있는 로봇은?
alba-1 멈췄어?
alba-1 언제 멈췄어?
alba-1 왜 멈췄어?
alba-1이 멈춰 있어?
어떤 주문이 취소됐어?
취소된 주문 있어?
취소된 주문 알려줘
누가 취소했어?
오늘 취소한 주문이 몇 개야?
alba-1 어디야
alba-1 어디야?
alba-1 어디 있어?
alba-1이 어디 있어?
alba-1 지금 어디로 가?
alba-1 어디로 가고 있어?
alba-1 어디 가?
alba-2 언제 와?
alba-2 언제 돌아와?
누가 와?
alba-2가 어디 있어?
alba-2는?
alba-1
alba-1?
알바-1 어디 있어
알바1 배터리
알바 12 상태 알려줘
알바 12 상태 좀 알려 줘
알바 12 상태 알려주세요
알바 12 상태 알려 줄 수 있어?
alba-1 상태 보여줘
alba-1 상태 보여 주세요
alba-1 상태 확인해줘
alba-1 상태
alba-1 위치
로봇 목록 보여줘
로봇 목록 줘
이동 중인 로봇 있어?
이동 중이야?
돌아가는 로봇 있어?
충전 중인 로봇은?
충전 중인 로봇
충전 필요한 로봇 있어?
충전해야 하는 로봇 있어?
충전해야 할 로봇은?
배터리 부족한 로봇 있어?
배터리 부족해?
방전된 로봇?
배터리 몇 프로야?
지금 서빙 중인 로봇은?
서빙 로봇 어디 있어
서빙 로봇 어디 있어?
서빙 로봇 1번 어디
조리 로봇 어디
조리 중이야?
쿡봇 상태
청소 중인 테이블?
1번 로봇 어디야
12번 로봇 상태
2호 배터리
꺼진 로봇 있어?
꺼져 있는 로봇은?
켜져 있는 로봇은?
열린 주문 있어?
열린 주문
열려 있는 주문 몇 개야?
늦은 주문 있어?
늦은 주문?
늦은 주문
3번 테이블 주문
3번 테이블 주문?
3번 테이블 뭐 시켰어?
3번 테이블 상태
3번 테이블
3번 테이블 비었어?
빈 테이블 있어?
어느 테이블이 호출 중이야?
호출한 테이블 있어?
호출한 테이블?
제일 오래 기다리는 테이블은?
어느 테이블이 제일 오래 기다려?
누가 불렀어?
부족한 재료 있어?
떨어진 재료 있어?
재고 부족?
김치 재고 얼마나 있어?
rice 남았어?
rice 얼마나 있어?
물 재고
뭐 사야 해?
지난 10분 동안 무슨 일 있었어?
최근 2시간 동안 있었던 일
무슨 일 있었어
안녕
안녕하세요
도움
뭘 할 수 있어?
괜찮아?
다 괜찮아?
문제 있어?
이상 없어?
오늘 날씨 어때
와이파이 비밀번호 뭐야
무슨 노래 좋아해?
선물 뭐가 좋을까
bravo-7 뭐 해?
로봇들 어때?
도와줘야 할 테이블 있어?
손님 몇 명이야?
비상 상황 있어?
고장난 로봇 있어?
alba-1이 테이블 3에 있어?
3번 테이블 근처 로봇은?
테이블 3번 근처에 로봇 있어?
오고 있는 로봇 있어?
그 만두 있어?
하지만 alba-1은?
마지막 주문은 언제야?
정보 내용 알려줘
로봇 하나가 어디 있어?
alba-1이랑 alba-2 어디야
alba-1과 alba-2는 어디 있어?
알바-1 뭐 하고 있어?
알바-1은 지금 뭐해
지금 몇 시야
주문 몇 개 있어?
주문 현황
주문 현황 알려줘
테이블 현황 보여 줄래?
손님이 기다리고 있어?
누가 기다리고 있어?
기다리는 손님 있어?
3번 테이블 음식 나왔어?
3번 테이블 음식 언제 나와?
음식 언제 나와?
다음에 뭐 만들어?
다음에 뭐 해야 해?
뭘 만들어야 해?
다음 주문 뭐야?
재고 확인
재고 확인해줘
재고 상태
쌀 얼마나 남았어?
쌀 떨어졌어?
김치 있어?
품절된 메뉴 있어?
로봇이 왜 안 움직여?
alba-1 왜 안 와?
로봇 몇 대야?
로봇 몇 대 켜져 있어?
연결 끊긴 로봇 있어?
배터리 제일 낮은 로봇은?
배터리가 가장 적은 로봇
어느 로봇이 3번 테이블에서 가장 가까워?
3번 테이블 가까이 있는 로봇
최근 알림
최근 호출
비상 호출 있었어?
오늘 몇 명 왔어?
손님 왔어?
alba-2 왔어?
alba-2 도착했어?
서빙 끝났어?
조리 끝났어?
청소 끝난 테이블은?
정리 필요한 테이블 있어?
예약된 테이블 있어?
예약 있어?
충전 다 됐어?
충전 상태
alba-1 충전 상태
충전기 어디 있어?
1번 로봇 배터리 몇이야
고마워
감사합니다
안녕하세요 alba-1 어디 있나요
alba-1 어디 있는지 알려줘
alba-1 어디 있는지 알려주실 수 있나요?
alba-1 어디 있는지 말해줄래
로봇 상태를 말씀해 주세요
주문 목록을 보여주세요
문제가 뭐야
왜 늦어?
늦은 이유가 뭐야
언제 취소됐어?
취소된 거 맞아?
이동했어?
어디로 이동했어?
어디로 이동 중이야?
누가 보냈어?
alba-1이 보낸 메시지
가장 오래 기다린 테이블
테이블 몇 개 비었어?
자리 있어?
빈자리 있나요?
4명 앉을 자리 있어?
지난 한 시간 동안 무슨 일 있었어?
쿡봇은 뭐 하고 있어?
로봇들 괜찮아?
전부 괜찮아?
로봇 다 어디 있어?
배터리 없는 로봇
멈춘 이유가 뭐야?
왜 멈춰 있어?
정지 상태야?
정지했어?
alba-1 정지했어?
정지한 이유
시작했어?
종료된 주문
운행 중이야?
켜져 있어?
문 열려 있어?
몇 시에 열어?
몇 시에 닫아?
언제 시작해?
누가 청소해?
어디로 가?
어디 가세요?
지금 어디세요?
뭐 드세요?
멈춘 적 있어?
언제부터 멈춰 있었어?
alba-1 정지한 지 얼마나 됐어?
정지된 로봇 몇 대야?
정지한 로봇들 알려줘
멈춘 로봇들 보여줘
취소한 주문 보여줘
취소된 주문이 몇 건이야?
취소가 몇 건이야?
오늘 취소 몇 건?
누가 주문을 취소했어?
주문이 왜 취소됐어?
왜 정지했어?
왜 멈췄나요?
어디서 멈췄어?
보낸 로봇 있어?
3번 테이블로 간 로봇은?
3번 테이블로 가는 로봇 있어?
3번 테이블로 가고 있는 로봇 알려줘
누가 3번 테이블로 갔어?
alba-2 3번 테이블에 갔어?
alba-2 3번 테이블에 도착했나요?
충전하고 있는 로봇 알려줘
충전하는 로봇 있어?
이동하는 로봇 있어?
돌아온 로봇 있어?
alba-1 돌아왔어?
alba-1 가져왔어?
꺼진 로봇 알려줘
켜진 로봇 몇 대야
열린 테이블 있어?
문 닫았어?
몇 시에 문 닫아?
청소한 테이블 알려줘
alba-1 멈춰 있니?
alba-1 멈춰 있나요?
alba-1은 멈춘 상태야?
"""


ENGLISH_VERBS = """
stop
halt
freeze
go
send
bring
deliver
come
return
charge
cancel
pause
resume
open
close
turn off
shut down
move
start
restart
abort
drive
clean
serve
dock
pick up
slow down
call
reset
unlock
lift
follow
come back
wait
hold
park
deliver the food with
release
switch off
power off
reboot
continue
proceed
"""
ENGLISH_WAYS = """
VERB
VERB alba-1
alba-1 VERB
alba-1 VERB!
please VERB alba-1
VERB alba-1 please
could you please VERB alba-1?
could you please VERB alba-1
can you VERB alba-1
alba-1, please VERB!
I want you to VERB alba-1
where is alba-1? VERB it
VERB all robots now
hey alba-1 VERB
would you kindly VERB alba-1
VERB, will you?
alba-1 VERB right now
you must VERB alba-1
is alba-1 ok? please VERB
can alba-1 VERB?
VERB the robot near table 3
Please, VERB the robot.
I need alba-1 to VERB
tell alba-1 to VERB
VERB everything
alba-1 should VERB
alba-1: VERB
VERB cook-1 and alba-2
no, VERB alba-1
VERB it now
would it be possible to VERB alba-1?
let alba-1 VERB
make alba-1 VERB
VERB robot 1
robot 1 VERB
the robot at table 3 must VERB
what is the status of alba-1 and VERB it
VERB which robot is near table 3
I order you to VERB alba-1
alba 1 VERB
alba1 VERB
alba-1VERB
we should VERB alba-1
i would like alba-1 to VERB
i'd like you to VERB alba-1 please
pls VERB alba-1
somebody VERB alba-1
someone please VERB alba-1
everyone VERB
VERB you stupid robot
VERB my robot
immediately VERB alba-1
alba-1 immediately VERB
alba-1 now VERB
do VERB alba-1
don't VERB alba-1
tell me where alba-1 is and VERB it
ok now VERB the thing
"""
KOREAN_VERBS = """
멈춰
정지
정지해
세워
스톱
보내
가져와
와
가
이동해
돌아와
충전해
취소해
꺼
멈춰라
서
켜
움직여
열어
닫아
시작해
중지해
출발해
복귀해
청소해
불러
기다려
치워
따라와
비켜
이동
취소
"""
KOREAN_WAYS = """
VERB
alba-1 VERB
alba-1을 VERB
alba-1를 VERB
제발 VERB
빨리 VERB!
모든 로봇 VERB
모든 로봇을 VERB
로봇 VERB
지금 VERB
1번 로봇 VERB
1번 로봇을 VERB
alba-1 VERB.
알바-1 VERB
알바봇 VERB
야 VERB
alba-1 당장 VERB
alba-1 좀 VERB
3번 테이블로 VERB
alba-1 어디야? VERB
alba-1 어디 있어? 빨리 VERB
로봇아 VERB
alba-1아 VERB
alba-1, VERB
VERB, alba-1
VERB! alba-1 어디야
이제 VERB
다 VERB
"""
KOREAN_REQUESTED_VERBS = """
멈춰
정지해
세워
보내
가져와
와
가
이동해
돌아와
충전해
취소해
꺼
켜
움직여
열어
닫아
시작해
중지해
출발해
복귀해
청소해
불러
기다려
치워
따라와
비켜
스톱해
"""
KOREAN_REQUESTS = """
VERB줘
VERB 줘
VERB 주세요
VERB주세요
VERB줄래?
VERB 줄래
VERB 줄 수 있어?
VERB 주실 수 있나요?
VERB주시겠어요?
VERB 주십시오
VERB주시면 감사하겠습니다
VERB줬으면 좋겠어
VERB달라고
"""
KOREAN_REQUEST_WAYS = """
VERB
alba-1 VERB
alba-1을 VERB
제발 모든 로봇 VERB
alba-1 좀 VERB
3번 테이블로 VERB
alba-1 어디야 VERB
혹시 alba-1 VERB
"""


def lines(table: str) -> list[str]:
    return table.strip().splitlines()


@pytest.mark.parametrize("way", lines(ENGLISH_WAYS))
def test_every_english_verb_is_an_order_in_every_way_to_say_it(way: str) -> None:
    texts = [way.replace("VERB", verb) for verb in lines(ENGLISH_VERBS)]
    assert [text for text in texts if not is_imperative(normalized(text))] == []


@pytest.mark.parametrize("way", lines(KOREAN_WAYS))
def test_every_korean_verb_is_an_order_in_every_way_to_say_it(way: str) -> None:
    texts = [way.replace("VERB", verb) for verb in lines(KOREAN_VERBS)]
    assert [text for text in texts if not is_imperative(normalized(text))] == []


@pytest.mark.parametrize("asked", lines(KOREAN_REQUESTS))
@pytest.mark.parametrize("way", lines(KOREAN_REQUEST_WAYS))
def test_every_korean_verb_is_an_order_however_polite(way: str, asked: str) -> None:
    texts = [way.replace("VERB", asked.replace("VERB", verb)) for verb in lines(KOREAN_REQUESTED_VERBS)]
    assert [text for text in texts if not is_imperative(normalized(text))] == []


def test_spaces_make_no_difference_to_a_korean_order() -> None:
    for text in lines(KOREAN_ORDERS):
        if not re.search(r"[^가-힣 ]|(?:^| )[가와서]$", text):
            assert is_imperative("".join(text.split())), text
            assert is_imperative(" ".join("".join(text.split()))), text


def test_spaces_make_no_order_of_a_korean_question() -> None:
    for text in lines(KOREAN_QUESTIONS):
        assert not is_imperative("".join(text.split())), text
        assert not is_imperative(" ".join("".join(text.split()))), text


def test_a_long_text_is_judged_at_once() -> None:
    for piece in ("did go ", "why ", "멈추는 ", "a", "가 ", "알려", "which robots stop ", "s t o ", "every", "please "):
        text = normalized(piece * (4000 // len(piece)))
        began = time.process_time()
        is_imperative(text)
        assert time.process_time() - began < 0.5, piece


@pytest.mark.parametrize(
    ("text", "rest", "is_plain_question"),
    [
        ("alba-1", " ", True),
        ("alba-1?", " ?", True),
        ("alba-1 twerk", " twerk", False),
        ("alba-1 twerk?", " twerk?", True),
        ("alba-1 status please", " status please", True),
        ("alba-1 위치", " 위치", True),
        ("alba-1 굴렁쇠", " 굴렁쇠", False),
        ("alba-1 도착했어", " 도착했어", True),
        ("alba-1 뭐 해", " 뭐 해", True),
        ("alba-1 ㄱㄱ", " ㄱㄱ", False),
    ],
)
def test_what_only_names_a_robot_must_plainly_ask(text: str, rest: str, is_plain_question: bool) -> None:
    assert is_plain(normalized(text), normalized(rest)) is is_plain_question


def test_no_form_of_unicode_makes_a_difference() -> None:
    for text in lines(KOREAN_ORDERS) + lines(KOREAN_QUESTIONS):
        assert normalized(unicodedata.normalize("NFD", text)) == normalized(text)
    for text in ("ＳＴＯＰ", "st\u200bop", "𝐬𝐭𝐨𝐩", "s\u00adtop", "멈\u200b춰"):
        assert is_imperative(normalized(text)), text


@pytest.mark.parametrize("text", lines(ENGLISH_ORDERS) + lines(KOREAN_ORDERS))
def test_an_order_is_known_as_one(text: str) -> None:
    assert is_imperative(normalized(text))


@pytest.mark.parametrize("text", lines(ENGLISH_QUESTIONS) + lines(KOREAN_QUESTIONS))
def test_a_question_is_no_order(text: str) -> None:
    assert not is_imperative(normalized(text))
